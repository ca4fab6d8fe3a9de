"""One journal as the publisher sees it: its lines that wait, its committed offset, and its removal.

1. While the journal's lock is held, a worker appends to it. The reader reads to the last newline only, because the
   worker may still cut off what follows it.
2. When the lock is free, the worker has ended and the journal is an orphan, for good: only its maker ever appends. The
   reader adopts it. It takes the lock for this and releases it at once: there may be more orphans than files that a
   process may open. The lock of the outbox keeps other publishers away.
3. `take` reads the next span. After SNS has accepted it, `advance` moves the committed offset and removes the segments
   that lie before it. The last segment stays.
4. When all of an orphan is published, `retire` removes it: the segments, then the committed offset, then the lock file,
   then the directory. The lock file is the last file to be removed: after a crash in between, the next start still
   finds an orphan and finishes the removal.
5. An orphan that cannot be read is renamed to `<id>.bad`.

Everything in this module blocks on the disk: call it from threads.
"""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tracker.core.visit import MAX_JOURNAL_LINE_BYTES, decode_line
from tracker.errors import MalformedMessage
from tracker.pixel.line_counter import LineCounter
from tracker.pixel.outbox_files import (
    bad_path,
    committed_offset,
    committed_path,
    lock_path,
    segment_path,
    segments,
    write_committed_offset,
)
from tracker.pixel.segments import read_segments
from tracker.pixel.span import Span, first_span

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 60.0  # a journal without a lock file is an orphan if nothing was written to it for so long

# What the system reports for a damaged disk or file system. Any other error may not occur at the next try.
_DAMAGED = {errno.EIO, errno.EUCLEAN, errno.EBADMSG} if hasattr(errno, "EUCLEAN") else {errno.EIO}


class UnreadableJournal(Exception):
    """The files of a journal contradict each other, or the disk cannot read them."""


class JournalReader:
    """The publisher's side of one journal.

    `committed` is the offset up to which SNS has accepted everything. `earlier` says that the journal was there before
    this run of the pixel.
    """

    def __init__(self, path: Path, *, earlier: bool = False) -> None:
        self.path = path
        self.name = path.name
        self.committed = committed_offset(path)
        self.earlier = earlier
        self.orphaned = False  # whether the journal's worker has ended and this process has adopted it
        self._lines = LineCounter(path, self.committed)
        self._oldest: tuple[int, datetime | None] = (-1, None)  # a committed offset, and the time of the visit there

    @property
    def lines_counted(self) -> int:
        """How many lines this reader has counted, from the committed offset at which it began."""
        return self._lines.counted

    def adopt(self) -> bool:
        """Adopt the journal if its worker has ended. True if that happened in this call. Raises OSError."""
        if self.orphaned:
            return False
        try:
            lock = os.open(lock_path(self.path), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._worker_may_live():
                return False
            lock = os.open(lock_path(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino != os.stat(lock_path(self.path)).st_ino:
                raise OSError(errno.ESTALE, "the lock file was replaced")
        except OSError:
            return False
        finally:
            os.close(lock)
        self.orphaned = True
        return True

    def waiting(self) -> int:
        """How many bytes SNS has not accepted yet, including an incomplete line. Raises OSError."""
        there = read_segments(self.path)
        return max(0, there[-1].end - self.committed) if there else 0

    def count(self, *, limit: int | None = None) -> None:
        """Count lines into `lines_counted`, as `LineCounter.count` does."""
        self._lines.count(limit=limit)

    def count_span(self, span: Span) -> None:
        """Count all lines up to the end of `span` into `lines_counted`. Raises OSError."""
        self._lines.count_read(span.start, span.data)

    def oldest(self) -> datetime | None:
        """When the first waiting visit was answered; None if no visit waits or its line is damaged. Raises OSError."""
        offset = self.committed
        if self._oldest[0] != offset or self._oldest[1] is None:
            try:
                span = self.take(MAX_JOURNAL_LINE_BYTES)
                time = decode_line(span.data[: span.data.index(b"\n") + 1]).time if span and span.data else None
            except (MalformedMessage, UnreadableJournal):
                time = None
            self._oldest = (offset, time)
        return self._oldest[1]

    def take(self, limit: int, start: int | None = None) -> Span | None:
        """The next whole lines, at most `limit` bytes of them; None when there are none (yet).

        They begin at the committed offset, or at the offset `start`. A tail without newline was never answered and is
        not taken. Raises UnreadableJournal for damage, and OSError for an error that may not occur at the next try.
        """
        offset = self.committed if start is None else start
        with _damage_reported():
            there = read_segments(self.path)
            for segment, following in itertools.zip_longest(there, there[1:]):
                if following is not None and segment.end > following.start:
                    raise UnreadableJournal(f"segment {segment.start} overlaps segment {following.start}")
                offset = max(offset, segment.start)  # a power cut may have taken a segment before this one
                while read := segment.read(offset, limit):
                    if lines := read[: read.rfind(b"\n") + 1]:
                        return first_span(offset, lines, more=len(lines) > limit - MAX_JOURNAL_LINE_BYTES)
                    if offset + len(read) >= segment.end:
                        break
                    offset += len(read)  # no valid line is so long: what follows is counted as a damaged line
        return None

    def advance(self, offset: int) -> None:
        """Move the committed offset to `offset`, and remove the segments before it. Raises OSError."""
        if offset == self.committed:
            return
        self.committed = offset
        with contextlib.suppress(OSError):  # without the file, lines are only published again after a restart
            write_committed_offset(self.path, offset)
        for start, following in itertools.pairwise(segments(self.path)):
            if following <= offset:
                os.unlink(segment_path(self.path, start))

    def retire(self) -> None:
        """Remove the journal, its lock file last. If it holds files of others, set it aside instead. Raises OSError."""
        for start in segments(self.path):
            os.unlink(segment_path(self.path, start))
        committed_path(self.path).unlink(missing_ok=True)
        lock_path(self.path).unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            log.error(
                "foreign_files_found journal=%s directory=%s; All visits of this journal are published. Its directory "
                "holds files that the pixel did not make, so it is kept: look at these files and remove it.",
                self.name,
                bad_path(self.path),
            )
            self.set_aside()

    def set_aside(self) -> None:
        """Rename the journal to `<id>.bad`, for the operator to look at. Raises OSError."""
        self.path.rename(bad_path(self.path))

    def _worker_may_live(self) -> bool:
        """Whether a worker may still write to this journal, whose lock file is missing.

        A worker notices that within a second, begins a new journal, and never writes to this one again.
        """
        newest = max((os.stat(entry).st_mtime for entry in os.scandir(self.path)), default=0.0)
        return time.time() - newest < ABANDONED_SECONDS


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Raise UnreadableJournal for the errors of a damaged disk. Other errors are raised as they are."""
    try:
        yield
    except OSError as error:
        if error.errno in _DAMAGED:
            raise UnreadableJournal(str(error)) from error
        raise
