"""Rotation: the visit log is put aside under a name of its own, and an empty one begun, between two appends.

Promises: no line is lost, repeated or split over two files, whatever instant the process or the power goes; names sort
in the order of writing; nothing that is there already is overwritten. The order that this hangs on: the ledger is
settled, a name is reserved, the ledger notes it, the log is renamed, an empty log is made, both names are made durable,
and only then does the ledger go on with the empty log. `finish` picks up wherever that was left.
"""

import os
import re
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tracker.config import Rotate
from tracker.errors import AppendFailed, LogChanged, StorageFull
from tracker.files import sync_directory
from tracker.storage.ledger import Ledger
from tracker.storage.visit_log import NO_ROOM, create_log

_PERIOD_SECONDS = {"hour": 3_600, "day": 86_400}
_TIME = "%Y%m%dT%H%M%S.%fZ"
_SUFFIX = re.compile(r"\.(\d{8}T\d{6}\.\d{6}Z)(\.gz)?")


class Rotation:
    """When the log `path` is rotated, and how. Everything here belongs to the writer's thread."""

    def __init__(
        self, *, path: Path, mode: int, config: Rotate, ledger: Ledger, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._mode = mode
        self._config = config
        self._ledger = ledger
        self._clock = clock

    def is_due(self, log: os.stat_result) -> bool:
        """Whether the log has its size, or its last append lies in an hour or a day (UTC) that is over."""
        if self._ledger.rotating is not None:
            return True  # begun, and kept from its end by a full disk
        if not log.st_size:
            return False
        if self._config.max_bytes is not None and log.st_size >= self._config.max_bytes:
            return True
        if self._config.every is None:
            return False
        period = _PERIOD_SECONDS[self._config.every]
        return self._clock() // period > log.st_mtime // period

    def rotate(self) -> None:
        """Put the log aside and begin an empty one. Raises StorageFull, after which it is called again, AppendFailed.

        The caller has made sure that the name still leads to the log it writes.
        """
        try:
            self._ledger.settle()
            if self._ledger.rotating is None:
                target = self._reserve()
                try:
                    self._ledger.rotate_to(target.name)
                except BaseException:
                    target.unlink()
                    raise
                self._path.rename(target)
            finish(self._path, self._mode, self._ledger)
        except OSError as error:
            raise _trouble(error, f"{self._path} cannot be rotated") from error

    def follow(self) -> None:
        """Go on with the file that has the log's name now. The ledger is settled. Raises as `rotate` does."""
        try:
            status = self._path.stat() if self._path.exists() else None
            if status is None or status.st_ino != self._ledger.inode:
                go_on_with(self._path, self._mode, self._ledger)
        except OSError as error:
            raise _trouble(error, f"{self._path} cannot be reopened") from error

    def _reserve(self) -> Path:
        """An empty file of a name that sorts behind all others; made here, so that nobody's file is overwritten."""
        at = datetime.fromtimestamp(self._clock(), UTC)
        if (names := rotated(self._path)) and (match := _SUFFIX.fullmatch(names[-1].name[len(self._path.name) :])):
            at = max(at, datetime.strptime(match[1], _TIME).replace(tzinfo=UTC) + timedelta(microseconds=1))
        target = self._path.with_name(f"{self._path.name}.{at:{_TIME}}")
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode))
        return target


def finish(path: Path, mode: int, ledger: Ledger) -> None:
    """Bring a rotation that the ledger knows of to its end, or back to its beginning when the log was not moved yet.

    Raises OSError, and LogChanged for files that no rotation leaves behind.
    """
    assert ledger.rotating is not None
    target = path.with_name(ledger.rotating)
    log, moved = _size(path), _size(target)
    if log == ledger.size and not moved:
        if moved == 0:
            target.unlink()
        ledger.rotate_to(None)
        return
    if log or moved != ledger.size:
        raise LogChanged(
            f"{path} was being rotated to {target}; the ledger expects {ledger.size} bytes in one of them and nothing "
            f"in the other, found {log} and {moved}: put them back, or start once with --accept-log"
        )
    go_on_with(path, mode, ledger)


def go_on_with(path: Path, mode: int, ledger: Ledger) -> None:
    """Make the file of this name the log, an empty one if there is none; the one before was put aside.

    Raises OSError, and LogChanged when the name leads to what is no file.
    """
    if _size(path) is None:
        create_log(path, mode)
    sync_directory(path.parent)  # the move too: from here on the ledger speaks of the new file
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LogChanged(f"{path} is no file any more")
    ledger.adopt(status.st_size, status.st_ino)


def rotated(path: Path) -> list[Path]:
    """The rotated files of the log `path`, compressed or not, in the order of writing."""
    names = (entry.name for entry in os.scandir(path.parent) if entry.name.startswith(path.name))
    return [path.with_name(name) for name in sorted(names) if _SUFFIX.fullmatch(name[len(path.name) :])]


def _trouble(error: OSError, what: str) -> AppendFailed:
    return (StorageFull if error.errno in NO_ROOM else AppendFailed)(f"{what}: {error.strerror}")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
