"""The visit log: the append-only file that every visit ends in.

`append` writes one batch where the ledger expects it, or leaves the file as it was; `sync` makes it durable. Neither
goes on in doubt: a failed fdatasync may have dropped the pages it did not write, so it is never tried again.
"""

import asyncio
import errno
import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from tracker import telemetry
from tracker.errors import AppendFailed, LogChanged, StorageFull
from tracker.files import fdatasync

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class VisitLog:
    """The open log; every call on the file runs in the executor's one thread. Made by `open_log`."""

    def __init__(self, *, file: AsyncFileIO, path: Path, executor: Executor, ends_mid_line: bool) -> None:
        self._file = file
        self._descriptor: int = file.fileno()
        self._path = path
        self._executor = executor
        self._links = os.fstat(self._descriptor).st_nlink
        self.ends_mid_line = ends_mid_line  # then the next append begins with a newline

    async def append(self, offset: int, data: bytes | bytearray) -> None:
        """Write `data` at `offset`, the log's end as the ledger knows it.

        Raises LogChanged when the log is not as expected, StorageFull when there was no room and what was written
        of it has been cut off again, AppendFailed when the file's state is unknown.
        """
        await self._call(self._check, offset)
        try:
            written = await self._file.write(data)
        except OSError as error:
            await self._call(self._cut, offset)
            kind = StorageFull if error.errno in _NO_ROOM else AppendFailed
            raise kind(f"{self._path}: {error.strerror}") from error
        if written != len(data):
            await self._call(self._cut, offset)
            raise StorageFull(f"{self._path}: only {written} of {len(data)} bytes could be written")

    async def sync(self) -> None:
        """Make every append so far durable; raises AppendFailed, after which the process has to end."""
        with telemetry.FSYNC_SECONDS.time():
            await self._call(self._sync)
        self.ends_mid_line = False

    async def close(self) -> None:
        await self._file.close()

    async def _call(self, function: Any, *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def _check(self, offset: int) -> None:
        status = os.fstat(self._descriptor)
        try:
            named = os.stat(self._path)
        except OSError as error:
            raise LogChanged(
                f"{self._path} was moved or deleted under the running service: {error.strerror}"
            ) from error
        if (named.st_dev, named.st_ino) != (status.st_dev, status.st_ino):
            raise LogChanged(f"{self._path} was replaced by another file under the running service")
        if status.st_nlink != self._links:
            raise LogChanged(f"{self._path} has {status.st_nlink} names instead of {self._links}")
        if status.st_size != offset:
            raise LogChanged(
                f"{self._path} has {status.st_size} bytes where {offset} were expected: somebody else wrote or cut it"
            )

    def _cut(self, offset: int) -> None:
        try:
            os.ftruncate(self._descriptor, offset)
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
    file = await aiofiles.open(path, "ab", buffering=0, executor=executor)
    ends_mid_line = await asyncio.get_running_loop().run_in_executor(executor, _ends_mid_line, path)
    return VisitLog(file=file, path=path, executor=executor, ends_mid_line=ends_mid_line)


def _ends_mid_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
