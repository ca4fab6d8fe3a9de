"""Disks without room, and disks that stand still.

`SmallDisk` is a real file system on a loop device, which can be filled and frozen. Containers do not permit that. There
the tests run on a stand-in that needs no privilege: `FileLimit` for a disk without room, `LockedLedger` for one that
stands still.
"""

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MEBIBYTES = 8


class SmallDisk:
    """An ext4 of a few MiB at `path`."""

    def __init__(self, home: Path) -> None:
        self.path = home / "disk"
        self._filler = self.path / "filler"
        image = home / "disk.img"
        self.path.mkdir()
        try:
            with image.open("wb") as file:
                file.truncate(MEBIBYTES << 20)
            _run("mkfs.ext4", "-q", "-m", "0", str(image))
            _run("mount", "-o", "loop", str(image), str(self.path))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"not permitted: a file system on a loop device (the stand-in of the same test runs): {error}")

    def fill(self, pids: Iterable[int]) -> None:
        """Takes all room there is, to the last byte."""
        with self._filler.open("ab", buffering=0) as filler:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while filler.write(bytes(size)) == size:
                        pass
            with contextlib.suppress(OSError):
                os.fsync(filler.fileno())

    def free(self, pids: Iterable[int]) -> None:
        self._filler.unlink()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes meanwhile waits."""
        _run("fsfreeze", "--freeze", str(self.path))
        try:
            yield
        finally:
            _run("fsfreeze", "--unfreeze", str(self.path))

    def close(self) -> None:
        _run("umount", "--lazy", str(self.path))


class LockedLedger:
    """No file system of its own: it makes the writer of a log below `path` wait, by holding the lock of its ledger.

    SQLite waits ten seconds for the lock; the ledger is to be frozen for less.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "locked"
        self.path.mkdir()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The writer waits at its next commit, which comes before its next append; its event loop goes on."""
        (ledger,) = self.path.rglob("ledger.sqlite")
        with contextlib.closing(sqlite3.connect(ledger, timeout=60, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        shutil.rmtree(self.path)


class FileLimit:
    """No process may make a file longer than the longest there is now (RLIMIT_FSIZE); `path` is where to look."""

    def __init__(self, home: Path) -> None:
        if sys.platform != "linux":
            pytest.skip("not permitted: only Linux lets one process set the limits of another")
        self.path = home / "limited"
        self.path.mkdir()

    def fill(self, pids: Iterable[int], spare: int = 20) -> None:
        """So much of the next write still goes in."""
        longest = max(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        self._limit(pids, longest + spare)

    def free(self, pids: Iterable[int]) -> None:
        self._limit(pids, resource.RLIM_INFINITY)

    def close(self) -> None:
        shutil.rmtree(self.path)

    def _limit(self, pids: Iterable[int], size: int) -> None:
        for pid in pids:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})
