"""An open file that is the visit log: appends, and makes them durable.

1. `append` checks that the file has the length that the ledger expects, and still has its name.
2. It writes one batch. If the disk has no room for the whole batch, it cuts the file back to its previous length, so
   that the append can be tried again.
3. `sync` makes the batch durable with fdatasync. If that fails, the kernel may have dropped the pages that it could not
   write, and a second fdatasync would not report that. So the process must end: it appends and syncs nothing more.

`tracker.storage.visit_log` decides which file is the visit log.
"""

import errno
import os
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from tracker import telemetry
from tracker.errors import AppendFailed, AppendPaused, LogChanged, LogMoved, StorageFull
from tracker.files import fdatasync, room_for, sync_directory
from tracker.owner_thread import OwnerThread

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CHANGED_BY = "somebody else wrote or cut it (logrotate: use `create` and SIGHUP, never `copytruncate`)"


class LogFile:
    """The open file; every call on it runs in the owner thread. `open_log_file` makes one."""

    def __init__(self, *, stream: AsyncFileIO, path: Path, thread: OwnerThread, ends_mid_line: bool) -> None:
        self.stream = stream
        self.ends_mid_line = ends_mid_line  # if so, the next append has to begin with a newline
        self._path = path
        self._thread = thread
        self._descriptor: int = stream.fileno()

    async def append(self, offset: int, data: bytes | bytearray) -> None:
        """Write `data` at `offset`, which is the end of the log as the ledger knows it.

        Raises LogChanged or LogMoved when the log is not as expected; StorageFull when there was no room (the part of
        `data` that was written has been cut off again); AppendFailed when the state of the file is unknown.
        """
        await self.check(offset)
        try:
            written = await self.stream.write(data)
        except OSError as error:
            await self._thread.call(self._cut, offset)
            if error.errno not in NO_ROOM:
                raise AppendFailed(f"{self._path}: {error.strerror}") from error
            room = await self._thread.call(room_for, self._path, len(data))
            raise StorageFull(f"{self._path}: {error.strerror}{room}") from error
        if written != len(data):
            await self._thread.call(self._cut, offset)
            room = await self._thread.call(room_for, self._path, len(data))
            raise StorageFull(f"{self._path}: only {written} of {len(data)} bytes could be written{room}")

    async def sync(self) -> None:
        """Make every append so far durable. Raises AppendFailed, after which the process has to end."""
        with telemetry.FSYNC_SECONDS.time():
            await self._thread.call(self._sync)
        self.ends_mid_line = False

    async def check(self, offset: int, *, may_be_moved: bool = False) -> None:
        """Check that the file is `offset` bytes long and still has its name.

        Raises LogChanged, and LogMoved for a file that has lost its name unless `may_be_moved`.
        """
        await self._thread.call(self.check_now, offset, may_be_moved)

    def check_now(self, offset: int, may_be_moved: bool) -> None:
        """As `check`; for the owner thread."""
        status = os.fstat(self._descriptor)
        if status.st_size != offset:
            raise LogChanged(f"{self._path} has {status.st_size} bytes where {offset} were expected: {CHANGED_BY}")
        if not status.st_nlink:  # more than one name is harmless: a backup by hard links (cp -al, rsnapshot) adds one
            raise LogChanged(f"{self._path} was deleted while storage was running")
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            named = None
        except OSError as error:
            raise LogChanged(f"{self._path} cannot be reached any more: {error.strerror}") from error
        if may_be_moved or (named and (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)):
            return
        what = "replaced by another file" if named else "moved"
        raise LogMoved(
            f"{self._path} was {what} while storage was running: if that was intended, send SIGHUP to storage"
        )

    def status(self) -> os.stat_result:
        """Size, and time of the last append. The kernel answers from memory, so the event loop may call this."""
        return os.fstat(self._descriptor)

    async def close(self) -> None:
        await self.stream.close()

    def _cut(self, offset: int) -> None:
        try:
            os.ftruncate(self._descriptor, offset)
            # The cut has to be durable, because the append is tried again, perhaps with other bytes. Otherwise the log
            # might hold bytes of the first try after a power cut, and the ledger knows nothing of them.
            fdatasync(self._descriptor)
        except OSError as error:
            raise AppendFailed(f"{self._path}: cannot cut back to {offset} bytes: {error.strerror}") from error

    def _sync(self) -> None:
        try:
            fdatasync(self._descriptor)
            telemetry.LOG_BYTES.set(os.fstat(self._descriptor).st_size)
        except OSError as error:
            raise AppendFailed(f"{self._path}: fdatasync failed: {error.strerror}") from error


async def open_log_file(path: Path, thread: OwnerThread) -> LogFile:
    """Open an existing log for appending. Needs one free descriptor. Raises OSError."""
    stream = await aiofiles.open(path, "a+b", buffering=0, executor=thread.executor)
    try:
        ends_mid_line = await thread.call(_ends_mid_line, stream.fileno())
    except OSError:
        await stream.close()
        raise
    return LogFile(stream=stream, path=path, thread=thread, ends_mid_line=ends_mid_line)


def create_log(path: Path, mode: int) -> None:
    """Create an empty log and make its name durable. Raises OSError, also when there is a file of this name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)  # the configured mode, whatever the umask is
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def error_between_appends(error: OSError, what: str) -> AppendFailed:
    """The error to raise for `error`, which happened between two appends; `what` says what could not be done.

    After an EIO the process has to end: the error may come from an fsync, and a second fsync would not report what the
    first one lost. Every other cause (no room, no descriptors, no permission) may be fixed while storage waits.
    """
    return (AppendFailed if error.errno == errno.EIO else AppendPaused)(f"{what}: {error.strerror}")


def _ends_mid_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
