"""The file-system seam: every call by which this process changes the files below one root passes here, is counted,
and at the Nth a fault happens. What was done is written down, for the model of a power cut.

`tests.seam.stand_ins` leads the calls here while a `life` lasts; what is elsewhere on the disk is let through. A death
is a real one (SIGKILL), so only a forked child may have it. SQLite's own files are SQLite's: of a database every
statement is a call that can fail, and what it commits is written down whole.
"""

import errno
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.seam import disk, stand_ins
from tests.seam.disk import ROOT, Effect, Note, Sync, Write
from tests.seam.faults import SQL, Fault

T = TypeVar("T")


@dataclass(slots=True)
class OpenFile:
    """A descriptor of a file or directory below the root."""

    path: str
    node: int  # its id in the effects
    appends: bool = False
    lost: bool = False  # an fsync of it failed


class Seam:
    """Stands before the files below `root`, which must be there; `effects` goes on through all its lives."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self.base = disk.look(root)
        self.effects: list[Effect] = []
        self.calls: list[str] = []  # of this life, what each was and on what
        self.violations: list[str] = []  # what no code may do, and what the seam cannot see
        self.open_files: dict[int, OpenFile] = {}
        self.expendable = False  # whether this process may be killed
        self.on_failed_sync: Callable[[str], None] = lambda path: None
        self.lock = threading.RLock()
        # Ids by inode number. A number is used again after the file is gone: the last file that had it counts.
        self._nodes = {os.stat(root).st_ino: ROOT}
        for number, path in enumerate(sorted(self.base), start=1):
            self._nodes[os.stat(root / path).st_ino] = number
        self._last_node = len(self.base)
        self._fault: Fault | None = None
        self._at = self._met = 0

    @property
    def hit(self) -> bool:
        """Whether this life met its fault."""
        return self._fault is not None and self._met >= self._at

    @contextmanager
    def life(self, fault: Fault | None = None, at: int = 1) -> Iterator[None]:
        """While this lasts, this process is the one under test, with `fault` at its `at`-th call."""
        self._fault, self._at, self._met, self.calls = fault, at, 0, []
        try:
            with pytest.MonkeyPatch.context() as patch:
                stand_ins.stand_in(self, patch)
                yield
            assert not self.open_files, f"descriptors left open: {self.open_files}"
        finally:
            for fd in self.open_files:  # the end of a process that ended by an error
                os.close(fd)
            self.open_files.clear()

    def note(self, what: str, value: object) -> None:
        """Write down, among the effects, what the world outside saw."""
        with self.lock:
            self.effects.append(Note(what, value))

    def do(self, call: str, path: str, perform: Callable[[], T], *effects: Effect) -> T:
        """A call and what it does to the disk, or the fault that is due."""
        with self.lock:
            fault = self._due(call, path)
            if fault is None or fault.late:
                result = perform()
                self.effects += effects
                if fault is None:
                    return result
            assert fault is not None
            if fault.kills:
                self._die()
            raise _sqlite_error(fault.error) if call in SQL else OSError(fault.error, os.strerror(fault.error), path)

    def write(self, call: str, fd: int, data: bytes, offset: int | None, perform: Callable[[bytes], int]) -> int:
        """A write, at the file's own offset for None; the bytes of it that a fault lets through."""
        with self.lock:
            file = self.open_files[fd]
            if file.appends and (offset is None or sys.platform == "linux"):  # where pwrite appends too
                offset = os.fstat(fd).st_size
            elif offset is None:
                offset = os.lseek(fd, 0, os.SEEK_CUR)
            fault = self._due(call, file.path)
            if fault is not None and fault.keeps is not None:
                data = data[: fault.keeps(len(data))]
            elif fault is not None and not fault.kills:
                raise OSError(fault.error, os.strerror(fault.error), file.path)
            elif fault is not None:
                self._die()
            written = perform(data)
            self.effects.append(Write(file.node, offset, data[:written]))
            if fault is not None and fault.kills:
                self._die()
            return written

    def sync(self, fd: int, perform: Callable[[int], None]) -> None:
        """An fsync or fdatasync, which is never tried again on a descriptor after it failed there."""
        file = self.open_files[fd]
        if file.lost:
            self.violations.append(f"fsync was tried again on a descriptor of {file.path} after it had failed")
        try:
            self.do("sync", file.path, lambda: perform(fd), Sync(file.node))
        except OSError:
            file.lost = True
            self.effects.append(Sync(file.node, succeeded=False))
            self.on_failed_sync(os.path.relpath(file.path, self.root))
            raise

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path of a path or descriptor, if it is below the root."""
        if isinstance(path, int):
            return self.open_files[path].path if path in self.open_files else None
        if dir_fd is not None:
            if dir_fd not in self.open_files:
                return None
            path = os.path.join(self.open_files[dir_fd].path, path)
        found = os.path.abspath(os.fsdecode(path))
        return found if found.startswith(self.root + "/") or found == self.root else None

    def node(self, path: str | int) -> int:
        """The id of what is there."""
        return self._nodes[os.stat(path).st_ino]

    def entry(self, path: str) -> tuple[int, str]:
        """The directory's id, and the name in it."""
        return self.node(os.path.dirname(path)), os.path.basename(path)

    def new_node(self) -> int:
        self._last_node += 1
        return self._last_node

    def name_node(self, path: str | int, node: int) -> None:
        """What was made there has this id."""
        self._nodes[os.stat(path).st_ino] = node

    def _due(self, call: str, path: str) -> Fault | None:
        self.calls.append(f"{call} {os.path.relpath(path, self.root)}")
        if self._fault is None or call not in self._fault.calls:
            return None
        self._met += 1
        return self._fault if self._at <= self._met < self._at + self._fault.times else None

    def _die(self) -> None:
        assert self.expendable, "only a child may be killed"
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def _sqlite_error(error: int) -> sqlite3.OperationalError:
    full = error == errno.ENOSPC
    failure = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    codes = {errno.ENOSPC: sqlite3.SQLITE_FULL, errno.EROFS: sqlite3.SQLITE_READONLY}
    failure.sqlite_errorcode = codes.get(error, sqlite3.SQLITE_IOERR)
    return failure
