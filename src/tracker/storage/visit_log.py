"""The visit log: the append-only file that every visit ends in.

`append` writes one batch where the ledger expects it, or leaves the file as it was; `sync` makes it durable. After a
failed fdatasync the kernel may have dropped the pages it could not write, so a failure ends the process: nothing is
appended or synced again.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from tracker import telemetry
from tracker.errors import AppendFailed, AppendPaused, LogChanged, LogMoved, StorageFull
from tracker.files import fdatasync, sync_directory

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CHANGED_BY = "somebody else wrote or cut it (logrotate: use `create` and SIGHUP, never `copytruncate`)"

T = TypeVar("T")


class VisitLog:
    """The open log; every call on the file runs in the executor's one thread. Made by `open_log`."""

    def __init__(self, *, file: AsyncFileIO, path: Path, executor: Executor, ends_mid_line: bool) -> None:
        self._path = path
        self._executor = executor
        self._take(file, ends_mid_line)

    async def append(self, offset: int, data: bytes | bytearray) -> None:
        """Write `data` at `offset`, the log's end as the ledger knows it.

        Raises LogChanged or LogMoved when the log is not as expected, StorageFull when there was no room and what was
        written of it has been cut off again, AppendFailed when the file's state is unknown.
        """
        await self.check(offset)
        try:
            written = await self._file.write(data)
        except OSError as error:
            await self._call(self._cut, offset)
            kind = StorageFull if error.errno in NO_ROOM else AppendFailed
            raise kind(f"{self._path}: {error.strerror}") from error
        if written != len(data):
            await self._call(self._cut, offset)
            raise StorageFull(f"{self._path}: only {written} of {len(data)} bytes could be written")

    async def sync(self) -> None:
        """Make every append so far durable; raises AppendFailed, after which the process has to end."""
        with telemetry.FSYNC_SECONDS.time():
            await self._call(self._sync)
        self.ends_mid_line = False

    async def check(self, offset: int, *, may_be_moved: bool = False) -> None:
        """Whether the log is ours alone, `offset` bytes long. Raises LogChanged, and LogMoved unless it may be."""
        await self._call(self._check, offset, may_be_moved)

    def status(self) -> os.stat_result:
        """Size and time of the last append; asks the kernel, not the disk."""
        return os.fstat(self._descriptor)

    async def reopen(self) -> None:
        """Leave the file for the one that has its name now.

        Raises AppendPaused or AppendFailed, and then the old file is still the one that is open.
        """
        try:
            opened = await _open(self._path, self._executor)
        except OSError as error:
            raise trouble(error, f"{self._path} cannot be opened") from error
        old = self._file
        self._take(*opened)
        await old.close()

    async def close(self) -> None:
        await self._file.close()

    def _take(self, file: AsyncFileIO, ends_mid_line: bool) -> None:
        self._file = file
        self._descriptor: int = file.fileno()
        self.ends_mid_line = ends_mid_line  # then the next append begins with a newline

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def _check(self, offset: int, may_be_moved: bool) -> None:
        status = os.fstat(self._descriptor)
        if status.st_size != offset:
            raise LogChanged(f"{self._path} has {status.st_size} bytes where {offset} were expected: {CHANGED_BY}")
        if not status.st_nlink:  # more than one name is harmless: a backup by hard links (cp -al, rsnapshot) adds one
            raise LogChanged(f"{self._path} was deleted under the running service")
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            named = None
        except OSError as error:
            raise LogChanged(f"{self._path} cannot be reached any more: {error.strerror}") from error
        if may_be_moved or (named and (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)):
            return
        what = "replaced by another file" if named else "moved"
        raise LogMoved(f"{self._path} was {what} under the running service: if that was meant, send it SIGHUP")

    def _cut(self, offset: int) -> None:
        try:
            os.ftruncate(self._descriptor, offset)
            fdatasync(self._descriptor)  # or a power cut may bring back what the ledger will know nothing of by then
        except OSError as error:
            raise AppendFailed(f"{self._path}: cannot cut back to {offset} bytes: {error.strerror}") from error

    def _sync(self) -> None:
        try:
            fdatasync(self._descriptor)
            telemetry.LOG_BYTES.set(os.fstat(self._descriptor).st_size)
        except OSError as error:
            raise AppendFailed(f"{self._path}: fdatasync failed: {error.strerror}") from error


async def open_log(path: Path, executor: Executor) -> VisitLog:
    """Open the log for appending; recovery has made sure that it is there."""
    file, ends_mid_line = await _open(path, executor)
    return VisitLog(file=file, path=path, executor=executor, ends_mid_line=ends_mid_line)


def create_log(path: Path, mode: int) -> None:
    """Make an empty log, its name durable. Raises OSError, also when there is one already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)  # what is configured, whatever the umask
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def trouble(error: OSError, what: str) -> AppendFailed:
    """What an error between two appends means for the writer; `what` could not be done.

    After an EIO the process ends: it may come from an fsync, and a second fsync would not see what the first one lost.
    Everything else may be fixed meanwhile (no room, no descriptors, no permission): a pause.
    """
    return (AppendFailed if error.errno == errno.EIO else AppendPaused)(f"{what}: {error.strerror}")


async def _open(path: Path, executor: Executor) -> tuple[AsyncFileIO, bool]:
    """The file, open for appending, and whether it ends within a line. Takes one descriptor. Raises OSError."""
    file = await aiofiles.open(path, "a+b", buffering=0, executor=executor)
    try:
        return file, await asyncio.get_running_loop().run_in_executor(executor, _ends_mid_line, file.fileno())
    except OSError:
        await file.close()
        raise


def _ends_mid_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
