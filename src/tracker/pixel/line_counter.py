"""Counts the lines of one journal, each line once, whoever asks for the count and however often.

The count is what the metrics call accepted or adopted visits. It must be ahead of the publisher: a line is counted
before its message is published. Everything here blocks on the disk: call it from threads.
"""

import threading
from pathlib import Path

from tracker.pixel.segments import Segment, read_segments

READ_BYTES = 1 << 20  # read at a time


class LineCounter:
    """Counts the lines of `journal` from the offset `start` on; `found` is how many there were so far."""

    def __init__(self, journal: Path, start: int) -> None:
        self.found = 0
        self._journal = journal
        self._counted = start  # every line before this offset is in `found`
        self._counting = threading.Lock()  # the publisher's thread and the outbox's scan both count

    def count(self, *, to: int | None = None, limit: int | None = None) -> None:
        """Count the lines up to the offset `to`, or all. Stop after about `limit` bytes, if one is given.

        More than that may be counted, by READ_BYTES at most. Raises OSError.
        """
        with self._counting:
            stop = None if limit is None else self._counted + limit
            for segment in read_segments(self._journal):
                if self._reached(to) or self._reached(stop):
                    return
                # Segments may be missing before this one: published and removed, or lost in a power cut.
                self._counted = max(self._counted, segment.start)
                while not self._reached(to) and not self._reached(stop):
                    lines = self._next_bytes(segment)
                    if not lines:
                        break
                    self.found += lines.count(b"\n")
                    self._counted += len(lines)

    def _reached(self, offset: int | None) -> bool:
        return offset is not None and self._counted >= offset

    def _next_bytes(self, segment: Segment) -> bytes:
        """The next bytes to count; none at the end of the segment."""
        read = segment.read(self._counted, READ_BYTES)
        if segment.last and self._counted + len(read) >= segment.end:
            return read[: read.rfind(b"\n") + 1]  # its worker may still cut off what follows the last newline
        return read
