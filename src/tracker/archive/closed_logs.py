"""Looks for the closed logs of a visit log: which are archived, and which wait.

A look lists two folders, reads only the markers that it has not read before, and the times of the archived logs. The
folder may have 100,000 closed logs.

A log is archived if its marker is for a log of its time. With another time it is doubtful: it was copied without its
time, or it is another log that has got the name. Its lines decide. While a log exists uncompressed, the compressed ones
of its name may not be complete, and are left alone.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from tracker.archive.lines import digest_of
from tracker.archive_marker import Marker, read_marker, write_marker
from tracker.errors import TrackerError
from tracker.files import make_directory, reason, sync_directory
from tracker.storage.erasure_log import digests
from tracker.storage.ledger_reader import read_extent
from tracker.visit_log_files import (
    archived_directory,
    archived_marker,
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
    """A closed log without a marker for it."""

    at: float
    """The time of the rotation by storage, or of the last line before one by logrotate, in seconds since 1970."""
    file: Path
    inode: int
    modified_ns: int
    """When it was changed last, in nanoseconds since 1970."""


@dataclass
class Look:
    """What one look has found."""

    waiting: list[Waiting] = field(default_factory=list)
    """The oldest first."""
    archived: list[str] = field(default_factory=list)
    """The names of files that are closed logs with a marker."""
    stuck: list[Waiting] = field(default_factory=list)
    """Closed logs that cannot be archived, for a reason that is one of the problems."""
    problems: list[str] = field(default_factory=list)


class ClosedLogs:
    """The closed logs of the visit log `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._markers: dict[str, Marker] = {}  # those that were read, and count, by their names
        self._other: dict[Waiting, str] = {}  # doubtful logs with other lines, and what the problem is

    def make_folder(self) -> None:
        """Make the folder of the markers. Raises OSError, and TrackerError where there is no log.

        There nothing is made: it would hide afterwards that a path is wrong, or a volume is not mounted.
        """
        if not (self._path.parent.is_dir() and names_beside(self._path)):
            raise TrackerError(
                f"{self._path}: there is neither this log nor a closed one: see whether log.path is right, its volume "
                "is mounted, and storage has been started"
            )
        make_directory(archived_directory(self._path), 0o750)

    def look(self) -> Look:
        """Raises OSError. Afterwards the names of the logs that were found are durable."""
        look = Look()
        self._read_markers()
        found: dict[str, Waiting] = {}
        names, folder = names_beside(self._path), os.fspath(self._path.parent)
        present = set(names)
        for name in names:  # `x` comes before `x.gz`, which is not complete while `x` exists
            known_as = closed_name(name)
            marker = self._markers.get(known_as)
            if marker is not None and _modified_ns(f"{folder}/{name}") == marker.modified_ns:
                look.archived.append(name)
            elif known_as not in found and (waiting := self._examine(self._path.with_name(name), look)) is not None:
                if marker is None:
                    found[known_as] = waiting
                elif name != known_as and known_as in present:
                    continue
                elif (problem := self._compare(waiting, marker)) is None:
                    look.archived.append(name)
                else:
                    look.problems.append(problem)
                    look.stuck.append(waiting)
        sync_directory(self._path.parent)
        look.waiting = sorted(self._left_by_storage(list(found.values()), look))
        return look

    def _read_markers(self) -> None:
        directory = archived_directory(self._path)
        names = set(os.listdir(directory))
        self._markers = {name: marker for name, marker in self._markers.items() if name in names}
        for name in names - self._markers.keys():
            if (
                self._is_closed_log(self._path.with_name(name))
                and (marker := read_marker(directory / name)) is not None
            ):
                self._markers[name] = marker

    def _is_closed_log(self, file: Path) -> bool:
        return closed_at(self._path, file) is not None or is_of_logrotate(self._path, file)

    def _examine(self, file: Path, look: Look) -> Waiting | None:
        """The closed log `file`. None when it is none, when it is empty, and when it cannot be archived: a problem."""
        numbered = is_numbered(self._path, file)
        if not numbered and not self._is_closed_log(file):
            return None
        try:
            status = file.lstat()
        except FileNotFoundError:
            return None  # it is compressed now, or removed
        if not stat.S_ISREG(status.st_mode):
            # A link may lead to the live log or to another closed log, whose lines would be archived twice.
            look.problems.append(f"{file}: expected a regular file, it is a link, a directory, a pipe or a device")
            return None
        if not status.st_size:
            return None
        at = closed_at(self._path, file)
        waiting = Waiting(at.timestamp() if at else status.st_mtime, file, status.st_ino, status.st_mtime_ns)
        if numbered:
            look.problems.append(f"{file}: logrotate changes this name at each rotation: it needs `dateext`")
            look.stuck.append(waiting)
            return None
        return waiting

    def _compare(self, doubtful: Waiting, marker: Marker) -> str | None:
        """Read a doubtful log. If it is the one of the marker, that gets its time; otherwise the problem is returned.

        The lines of each are read once, unless that fails.
        """
        if doubtful in self._other:
            return self._other[doubtful]
        file = doubtful.file
        try:
            if marker.digest in digests(self._path, file, digest_of(file)):
                marker = msgspec.structs.replace(marker, modified_ns=doubtful.modified_ns)
                write_marker(archived_marker(self._path, file), marker)
                self._markers[closed_name(file)] = marker
                return None
        except OSError as error:
            return f"{error.filename or file}: {reason(error)}"
        except TrackerError as error:
            return str(error)
        self._other[doubtful] = (
            f"{file} is not archived: a log with this name and other lines was archived before. Give this one a name "
            "with another time"
        )
        return self._other[doubtful]

    def _left_by_storage(self, found: list[Waiting], look: Look) -> list[Waiting]:
        """Without the log that logrotate has renamed and that storage may append to until it has opened the new one."""
        if not any(is_of_logrotate(self._path, each.file) for each in found):
            return found
        try:
            recorded: int | None = read_extent(ledger_path(self._path)).inode
        except TrackerError as error:
            look.problems.append(str(error))
            look.stuck += [each for each in found if is_of_logrotate(self._path, each.file)]
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


def _modified_ns(file: str) -> int | None:
    """When a file was changed last, in nanoseconds since 1970; None when it is gone."""
    try:
        return os.lstat(file).st_mtime_ns
    except FileNotFoundError:
        return None
