"""The journal: the append-only file of one worker. A visit is in it before its GIF leaves.

The files of a journal are described in `outbox_files`. Its life, in order:

1. The worker makes the directory under a temporary name, locks the lock file with flock(2), syncs the directory and
   renames it to its id. So a journal is never visible without its lock being held.
2. The worker appends whole NDJSON lines to the current segment. Only this worker ever appends, so the bytes at an
   offset never change.
3. A segment ends when it is full or an hour old. The next one is named by the offset at which it begins. A line never
   crosses two segments.
4. If a write is short or fails, the segment is cut back to its last whole line. A whole line is never cut off, because
   the publisher may have read it. If the cut fails too, the journal is sealed: nothing is appended to it any more.
5. A thread makes the appended lines durable every `outbox.fsync_interval`. After a failed fsync no other is tried: the
   kernel has marked the pages clean, so it would report success for bytes that are not on the disk.
6. The worker closes the journal. This frees its lock, and the publisher publishes and removes what is left.
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
        """Write whole lines to the page cache, and return how many bytes of them are kept.

        If the write is short, the first lines are kept, each of them whole. Raises OSError if no line is kept.
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
        """End a segment that is an hour old. Return what is wrong with the journal's files, None if nothing is.

        Raises OSError if no new segment can be made.
        """
        try:
            opened = os.fstat(self._segment)
            named = os.stat(segment_path(self.path, self._start))
            lock = os.stat(lock_path(self.path))
        except OSError as error:
            return f"one of its files cannot be found: {error.strerror}"
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino) or lock.st_ino != os.fstat(self._lock).st_ino:
            return "one of its files was replaced"
        if opened.st_size != self._length:
            return f"its segment has {opened.st_size} bytes, expected {self._length}"
        if self._length and time.monotonic() - self._began > SEGMENT_SECONDS:
            self._begin_segment()
        return None

    def sync(self) -> None:
        """Make durable what was appended before this call. If it raises OSError, every later call raises it, too."""
        if self.failed:
            raise OSError(errno.EIO, "an fsync of this journal has failed before")
        try:
            self._sync()
        except OSError:
            self.failed = True
            raise

    def close(self) -> None:
        """End the journal. It is an orphan from now on: the publisher publishes and removes what is left of it."""
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
        # This creates a file on the event loop, not in a thread: no line may be appended before the file has its name,
        # which is the offset at which the lines before it end.
        start = self._start + self._length
        try:
            segment = os.open(segment_path(self.path, start), _APPEND, 0o640)
        except FileExistsError:
            # An open that reported a failure has made it, or somebody else has. Every further try would fail, too.
            self.sealed = True
            raise
        self._finished.append(self._segment)
        self._segment, self._start, self._length = segment, start, 0
        self._began = time.monotonic()

    def _written_by_failed_write(self) -> int:
        """How many bytes a failed write has added to the file. Usually none; if there are any, readers see them."""
        try:
            return max(0, os.fstat(self._segment).st_size - self._length)
        except OSError:
            self.sealed = True
            return 0

    def _cut(self) -> None:
        try:
            os.ftruncate(self._segment, self._length)
        except OSError:
            self.sealed = True  # part of a line is left at the end; readers ignore it, because its newline is missing
