"""Looks for the closed logs of a visit log: which are archived, and which wait.

A look lists two folders, and reads only the markers that it has not read before. The folder may have 100,000 closed
logs.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from tracker.archive_marker import read_marker
from tracker.errors import TrackerError
from tracker.files import sync_directory
from tracker.storage.ledger_reader import read_extent
from tracker.visit_log_files import (
    archived_directory,
    closed_at,
    closed_name,
    forms,
    is_numbered,
    is_of_logrotate,
    ledger_path,
    names_beside,
)

T = TypeVar("T")


class Waiting(NamedTuple):
    """A closed log without a marker."""

    at: float
    """The time of the rotation by storage, or of the last line before one by logrotate, in seconds since 1970."""
    file: Path
    inode: int


@dataclass
class Look:
    """What one look has found."""

    waiting: list[Waiting] = field(default_factory=list)
    """The oldest first."""
    archived: list[str] = field(default_factory=list)
    """The names of files that are closed logs with a marker."""
    problems: list[str] = field(default_factory=list)


class ClosedLogs:
    """The closed logs of the visit log `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._markers: set[str] = set()  # the names of those that were read, and count

    def look(self) -> Look:
        """Raises OSError. Afterwards the names of the logs that were found are durable."""
        look = Look()
        self._read_markers()
        found: dict[str, Waiting] = {}
        for name in names_beside(self._path):  # `x` comes before `x.gz`, which is not complete while `x` exists
            known_as = closed_name(name)
            if known_as in self._markers:
                look.archived.append(name)
            elif known_as not in found and (waiting := self._examine(self._path.with_name(name), look)) is not None:
                found[known_as] = waiting
        sync_directory(self._path.parent)
        look.waiting = sorted(self._left_by_storage(list(found.values()), look))
        return look

    def _read_markers(self) -> None:
        directory = archived_directory(self._path)
        names = set(os.listdir(directory))
        self._markers &= names
        for name in names - self._markers:
            if self._is_closed_log(self._path.with_name(name)) and read_marker(directory / name) is not None:
                self._markers.add(name)

    def _is_closed_log(self, file: Path) -> bool:
        return closed_at(self._path, file) is not None or is_of_logrotate(self._path, file)

    def _examine(self, file: Path, look: Look) -> Waiting | None:
        """The closed log `file`. None when it is none, when it is empty, and when it cannot be archived: a problem."""
        if is_numbered(self._path, file):
            look.problems.append(f"{file}: logrotate changes this name at each rotation: it needs `dateext`")
            return None
        if not self._is_closed_log(file):
            return None
        try:
            status = file.lstat()
        except FileNotFoundError:
            return None  # it is compressed now, or removed
        if not stat.S_ISREG(status.st_mode):
            # A link may lead to the live log or to another closed log, whose lines would be archived twice.
            look.problems.append(f"{file}: expected a regular file, it is a link, a directory, a pipe or a device")
            return None
        at = closed_at(self._path, file)
        return Waiting(at.timestamp() if at else status.st_mtime, file, status.st_ino) if status.st_size else None

    def _left_by_storage(self, found: list[Waiting], look: Look) -> list[Waiting]:
        """Without the log that logrotate has renamed and that storage may append to until it has opened the new one."""
        if not any(is_of_logrotate(self._path, each.file) for each in found):
            return found
        try:
            recorded: int | None = read_extent(ledger_path(self._path)).inode
        except TrackerError as error:
            look.problems.append(str(error))
            recorded = None
        return [
            each for each in found if not is_of_logrotate(self._path, each.file) or recorded not in (None, each.inode)
        ]


def opened_by_any_name(closed: Path, open_log: Callable[[Path], T]) -> T:
    """What `open_log` returns for a closed log, which may have been compressed since it was listed.

    Raises FileNotFoundError when it was removed, and what `open_log` raises.
    """
    for name in forms(closed):
        with suppress(FileNotFoundError):
            return open_log(name)
    return open_log(closed)  # raises FileNotFoundError with the name that was listed
