"""Counts the lines of one journal. Each line is counted once, however often and from whichever thread it is called.

The metrics show the counts as accepted or adopted visits. A line must be counted before its message is published.
Everything here blocks on the disk: call it from threads.
"""

import threading
from pathlib import Path

from tracker.pixel.segments import Segment, read_segments

COUNTED_BYTES = 1 << 20  # of one read


class LineCounter:
    """Counts the lines of `journal` from the offset `start` on. `counted` is how many were counted so far."""

    def __init__(self, journal: Path, start: int) -> None:
        self.counted = 0
        self._journal = journal
        self._counted_to = start  # every line before this offset is in `counted`
        self._counting = threading.Lock()  # the publisher's thread and the outbox's scan both count

    def count(self, *, to: int | None = None, limit: int | None = None) -> None:
        """Count the lines up to the offset `to`, by default all. If `limit` is given, stop after that many bytes.

        Up to COUNTED_BYTES more may be counted in both cases. Raises OSError.
        """
        with self._counting:
            stop = None if limit is None else self._counted_to + limit
            for segment in read_segments(self._journal):
                if self._reached(to) or self._reached(stop):
                    return
                # Segments may be missing before this one: published and removed, or lost in a power cut.
                self._counted_to = max(self._counted_to, segment.start)
                while not self._reached(to) and not self._reached(stop):
                    lines = self._next_bytes(segment)
                    if not lines:
                        break
                    self.counted += lines.count(b"\n")
                    self._counted_to += len(lines)

    def count_read(self, start: int, lines: bytes) -> None:
        """Count the lines up to the end of `lines`, which were read from the offset `start`. Raises OSError.

        What is in `lines` is not read from the disk again.
        """
        if self._counted_to < start:
            self.count(to=start)
        with self._counting:
            end = start + len(lines)
            if self._counted_to < end:
                self.counted += lines.count(b"\n", max(0, self._counted_to - start))
                self._counted_to = end

    def _reached(self, offset: int | None) -> bool:
        return offset is not None and self._counted_to >= offset

    def _next_bytes(self, segment: Segment) -> bytes:
        """The next bytes to count; none at the end of the segment."""
        read = segment.read(self._counted_to, COUNTED_BYTES)
        if segment.last and self._counted_to + len(read) >= segment.end:
            return read[: read.rfind(b"\n") + 1]  # the worker may still cut off what follows the last newline
        return read
