"""The journal: the append-only file of one worker. A visit is in it before its GIF leaves.

The files of a journal are described in `outbox_files`. Its life, in order:

1. The worker makes the directory under a temporary name, locks the lock file with flock(2), syncs the directory and
   renames it to its id. So a journal is never visible without its lock being held.
2. The worker appends whole NDJSON lines to the current segment. Only this worker ever appends, so a byte offset names
   the same visit for good.
3. A segment ends when it is full or an hour old. The next one is named by the offset at which it begins. A line never
   crosses two segments.
4. If a write is short or fails, the segment is cut back to its last whole line. A whole line is never cut off, because
   the publisher may have read it. If the cut fails too, the journal is sealed: nothing is appended to it any more.
5. A thread makes the appended lines durable every `outbox.fsync_interval`. After a failed fsync no other is tried: the
   kernel has marked the pages clean, so it would report success for bytes that are not on the disk.
6. The worker closes the journal. Its lock is free then, and the publisher finishes it.
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
    """The worker's side of one journal. Call `append` and `check` on the event loop, and `sync` in a thread."""

    def __init__(self, *, path: Path, lock: int, segment: int, segment_bytes: int) -> None:
        self.path = path
        self.sealed = False  # nothing may be appended any more
        self.failed = False  # an fsync has failed, and none may be tried again
        self._lock = lock
        self._segment = segment
        self._segment_bytes = segment_bytes
        self._start = 0  # offset of the segment's first byte
        self._length = 0  # bytes of whole lines in the segment
        self._began = time.monotonic()
        self._finished: deque[int] = deque()  # descriptors of earlier segments, to sync and close

    @classmethod
    def create(cls, outbox: Path, segment_bytes: int) -> "Journal":
        """Make a new journal in `outbox`, locked and durable. Blocks on the disk: for a thread. Raises OSError."""
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
        """Write whole lines to the page cache, and return how many bytes of them were kept: the first lines, whole.

        Raises OSError when none was kept.
        """
        if self._length and self._length + len(lines) > self._segment_bytes:
            self._begin_segment()
        failure = OSError(errno.ENOSPC, "short write")
        try:
            written = os.write(self._segment, lines)
        except OSError as error:
            failure, written = error, self._written_by_failed_write()
        kept = len(lines) if written == len(lines) else lines.rfind(b"\n", 0, written) + 1
        self._length += kept
        if written < len(lines):
            self._cut()
        if not kept:
            raise failure
        return kept

    def check(self) -> str | None:
        """What is wrong with the journal's files, if anything. Ends a segment that is an hour old. Raises OSError."""
        try:
            opened = os.fstat(self._segment)
            named = os.stat(segment_path(self.path, self._start))
            lock = os.stat(lock_path(self.path))
        except OSError as error:
            return f"a file of it cannot be found: {error.strerror}"
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino) or lock.st_ino != os.fstat(self._lock).st_ino:
            return "a file of it was replaced"
        if opened.st_size != self._length:
            return f"its segment has {opened.st_size} bytes, but {self._length} were written"
        if self._length and time.monotonic() - self._began > SEGMENT_SECONDS:
            self._begin_segment()
        return None

    def sync(self) -> None:
        """Make durable what was appended before this call. After it has raised OSError once, it always does."""
        if self.failed:
            raise OSError(errno.EIO, "an fsync of this journal has failed before")
        try:
            self._sync()
        except OSError:
            self.failed = True
            raise

    def close(self) -> None:
        """End the journal. It is an orphan then, which the publisher finishes."""
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
        # On the event loop, although it creates a file: its name must be the exact end of the lines before it.
        start = self._start + self._length
        try:
            segment = os.open(segment_path(self.path, start), _APPEND, 0o640)
        except (
            FileExistsError
        ):  # made by an open that reported a failure, or by somebody else; it would be there at every try
            self.sealed = True
            raise
        self._finished.append(self._segment)
        self._segment, self._start, self._length = segment, start, 0
        self._began = time.monotonic()

    def _written_by_failed_write(self) -> int:
        """How many bytes a failed write has left in the file. Usually none, but a reader would see them."""
        try:
            return max(0, os.fstat(self._segment).st_size - self._length)
        except OSError:
            self.sealed = True
            return 0

    def _cut(self) -> None:
        try:
            os.ftruncate(self._segment, self._length)
        except OSError:
            self.sealed = True  # part of a line is left at the end; readers know it by the missing newline
