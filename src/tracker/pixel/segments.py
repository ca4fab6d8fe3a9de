"""The segments of a journal, for reading. Everything here blocks on the disk: call it from threads."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from tracker.pixel.outbox_files import segment_path, segments


class Segment(NamedTuple):
    """One segment: the journal's bytes from the offset `start` on."""

    path: Path
    start: int
    size: int
    """In bytes, when the segments were listed. The last segment of a live journal may be longer now."""
    last: bool

    @property
    def end(self) -> int:
        return self.start + self.size

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from the journal's offset `offset` on, none from `end` on. Raises OSError."""
        count = min(limit, self.end - offset)
        if count <= 0:
            return b""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, count, offset - self.start)
        finally:
            os.close(fd)


def read_segments(journal: Path) -> list[Segment]:
    """All segments of the journal, by offset, except those that are removed meanwhile. Raises OSError."""
    starts = segments(journal)
    found: list[Segment] = []
    for start in starts:
        path = segment_path(journal, start)
        with contextlib.suppress(FileNotFoundError):
            found.append(Segment(path, start, os.stat(path).st_size, start == starts[-1]))
    return found
