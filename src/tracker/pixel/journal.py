"""The journal: where a visit becomes durable. A worker appends one NDJSON line to it before the GIF leaves.

A journal is a directory, `<outbox.dir>/<32 hex digits>/`, that holds segments named by the offset of their first byte
(20 digits), a `lock` that its maker holds with flock(2) for as long as it appends, and `published`, which belongs to
the publisher. It is born locked: made under a temporary name, locked, fsynced, then renamed. Nobody ever appends to a
journal but its maker, so byte offsets name visits for good.
"""

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections import deque
from pathlib import Path

from tracker.files import fdatasync, sync_directory
from tracker.pixel.outbox_files import lock_path, new_path, segment_path

SEGMENT_SECONDS = 3600.0

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Journal:
    """The appending side of one journal. `append` and `check` belong to the worker's loop, `sync` to a thread."""

    def __init__(self, *, path: Path, lock: int, segment: int, segment_bytes: int) -> None:
        self.path = path
        self.sealed = False  # nothing may be appended any more
        self.failed = False  # an fsync has, and none may be tried again
        self._lock = lock
        self._segment = segment
        self._segment_bytes = segment_bytes
        self._start = 0  # offset of the segment's first byte
        self._length = 0  # of the segment's whole, answered lines
        self._born = time.monotonic()
        self._finished: deque[int] = deque()  # segments to sync and close

    @classmethod
    def create(cls, outbox: Path, segment_bytes: int) -> "Journal":
        """Make a new journal in `outbox`, locked and durable. Blocks on the disk; raises OSError."""
        journal = outbox / secrets.token_hex(16)
        path = new_path(journal)
        path.mkdir(mode=0o750)
        fds: list[int] = []
        try:
            fds.append(os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            fcntl.flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            fds.append(os.open(segment_path(path, 0), _APPEND, 0o640))
            sync_directory(path)
            path = path.rename(journal)
            sync_directory(outbox)
        except OSError:
            for fd in fds:
                os.close(fd)
            shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path=path, lock=fds[0], segment=fds[1], segment_bytes=segment_bytes)

    def append(self, lines: bytes) -> int:
        """Hand whole lines to the page cache; how many bytes of them are there afterwards, whole lines from the first.

        Raises OSError when it is none. What was written of the next line is cut off. A whole line is not, ever: the
        publisher may have read it.
        """
        if self._length and self._length + len(lines) > self._segment_bytes:
            self._begin_segment()
        failure = OSError(errno.ENOSPC, "short write")
        try:
            written = os.write(self._segment, lines)
        except OSError as error:
            failure, written = error, self._written_by_a_failed_write()
        kept = len(lines) if written == len(lines) else lines.rfind(b"\n", 0, written) + 1
        self._length += kept
        if written < len(lines):
            self._cut()
        if not kept:
            raise failure
        return kept

    def check(self) -> str | None:
        """What is wrong with the files under us, if anything; ends a segment that is an hour old."""
        try:
            held = os.fstat(self._segment)
            named = os.stat(segment_path(self.path, self._start))
            lock = os.stat(lock_path(self.path))
        except OSError as error:
            return f"lost its name: {error.strerror}"
        if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino) or lock.st_ino != os.fstat(self._lock).st_ino:
            return "lost its name to another file"
        if held.st_size != self._length:
            return f"lost its length: {held.st_size} bytes where {self._length} were written"
        if self._length and time.monotonic() - self._born > SEGMENT_SECONDS:
            self._begin_segment()
        return None

    def sync(self) -> None:
        """Make durable what was appended before the call. Raises OSError, and then always: give the journal up."""
        if self.failed:
            raise OSError(errno.EIO, "an fsync of this journal has failed before")
        try:
            self._sync()
        except OSError:
            # The pages count as clean now: another fsync of this file would claim what it cannot know.
            self.failed = True
            raise

    def close(self) -> None:
        """End the journal: from here on it is an orphan, for the publisher to finish."""
        self.sealed = True
        for fd in (*self._finished, self._segment, self._lock):
            os.close(fd)

    def _sync(self) -> None:
        if self._finished:
            sync_directory(self.path)
        while self._finished:
            fd = self._finished.popleft()
            try:
                fdatasync(fd)
            finally:
                os.close(fd)
        fdatasync(self._segment)

    def _begin_segment(self) -> None:
        # The one name the loop makes itself: it must be the exact end of the lines before it.
        start = self._start + self._length
        try:
            segment = os.open(segment_path(self.path, start), _APPEND, 0o640)
        except FileExistsError:  # made by an open that said it failed, or by somebody else: it will not go away
            self.sealed = True
            raise
        self._finished.append(self._segment)
        self._segment, self._start, self._length = segment, start, 0
        self._born = time.monotonic()

    def _written_by_a_failed_write(self) -> int:
        """None, as systems are; but a reader sees what is there, whatever was said."""
        try:
            return max(0, os.fstat(self._segment).st_size - self._length)
        except OSError:
            self.sealed = True
            return 0

    def _cut(self) -> None:
        try:
            os.ftruncate(self._segment, self._length)
        except OSError:
            self.sealed = True  # a torn line stands at the end, and only its missing newline tells
