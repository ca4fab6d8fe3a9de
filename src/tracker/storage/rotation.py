"""Rotation: between two appends the visit log is put aside under a name of its own, and an empty one is begun.

Promises: no line is lost, repeated or split over two files, whatever instant the process or the power goes; names sort
in the order of writing; no file that is there already is overwritten. The steps, in the order these promises need:

1. The ledger is settled.
2. A name is reserved: an empty file is created.
3. The ledger notes the name.
4. The log is renamed to it.
5. The directory is synced.
6. An empty log is created.
7. The directory is synced again.
8. The ledger goes on with the empty log.

Up to and including step 4 a failure is taken back and the rotation is put off: appends go on into the old log, and the
rotation is tried again some seconds later. After step 4 it must be finished before the next append, which waits for
that. `finish` goes on wherever the steps were left, in the running service or at the next start.
"""

import logging
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tracker import telemetry
from tracker.config import Rotate
from tracker.errors import AppendFailed, LogChanged
from tracker.files import sync_directory
from tracker.storage.ledger import Ledger
from tracker.storage.visit_log import create_log, trouble

log = logging.getLogger("tracker.rotation")

RETRY_SECONDS = 10.0  # between two tries of a rotation that cannot begin

_PERIOD_SECONDS = {"hour": 3_600, "day": 86_400}
_TIME = "%Y%m%dT%H%M%S.%fZ"
_SUFFIX = re.compile(r"\.\d{8}T\d{6}\.\d{6}Z(\.gz)?")


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
        self._put_off_until: float | None = None  # by the monotonic clock; None while rotations succeed

    def is_due(self, log: os.stat_result) -> bool:
        """Whether the log has its size, or its last append lies in an hour or a day (UTC) that is over."""
        if self._ledger.rotating is not None:
            return True  # it has begun and must be finished before the next append
        if not log.st_size or (self._put_off_until is not None and time.monotonic() < self._put_off_until):
            return False
        if self._config.max_bytes is not None and log.st_size >= self._config.max_bytes:
            return True
        if self._config.every is None:
            return False
        period = _PERIOD_SECONDS[self._config.every]
        return self._clock() // period > log.st_mtime // period

    def rotate(self) -> Path | None:
        """Put the log aside and begin an empty one; where the old one is, or None when the log is still the old one.

        Raises AppendPaused, after which it is called again before the next append, and AppendFailed. The caller has
        made sure that the name still leads to the log it writes.
        """
        self._ledger.settle()
        failure: Exception | None = None
        try:
            if self._ledger.rotating is None:
                failure = self._move()
            moved = finish(self._path, self._mode, self._ledger) if self._ledger.rotating is not None else None
        except OSError as error:
            raise trouble(error, f"{self._path} cannot be rotated") from error
        if moved is not None:
            self._put_off_until = None
        elif failure is not None:
            self._put_off(failure)
        return moved

    def _move(self) -> Exception | None:
        """Steps 2 to 4; why they could not be done. Raises what the ledger raises."""
        try:
            target = self._reserve()
        except (OSError, OverflowError) as error:
            return error
        try:
            self._ledger.rotate_to(target.name)
        except AppendFailed:
            _remove_reservation(target)
            raise
        try:
            self._path.rename(target)
        except OSError as error:
            return error  # `finish` takes the rotation back, or finds that the log was moved all the same
        return None

    def _put_off(self, error: Exception) -> None:
        telemetry.ROTATIONS_FAILED.inc()
        if self._put_off_until is None:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error(
                "rotation_put_off path=%s error=%s retry_seconds=%g; the log could not be put aside under a new name. "
                "Visits go on being stored in it, and it grows. Free what the error names: it is tried again by itself",
                *(self._path, reason, RETRY_SECONDS),
            )
        self._put_off_until = time.monotonic() + RETRY_SECONDS

    def follow(self) -> bool:
        """Go on with the file that has the log's name now; whether it is another one. The ledger is settled.

        Raises AppendPaused, after which it is called again before the next append, and AppendFailed.
        """
        try:
            status = self._path.stat() if self._path.exists() else None
            if status is not None and status.st_ino == self._ledger.inode:
                return False
            go_on_with(self._path, self._mode, self._ledger)
            return True
        except OSError as error:
            raise trouble(error, f"{self._path} cannot be reopened") from error

    def _reserve(self) -> Path:
        """An empty file of a name that sorts behind all others; made here, so that nobody's file is overwritten.

        Raises OSError, and OverflowError when no later name is left because somebody made one of the year 9999.
        """
        at = datetime.fromtimestamp(self._clock(), UTC)
        if names := _of_rotations(self._path):
            at = max(at, _time_of(names[-1], self._path) + timedelta(microseconds=1))
        target = self._path.with_name(f"{self._path.name}.{at:{_TIME}}")
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode))
        return target


def finish(path: Path, mode: int, ledger: Ledger) -> Path | None:
    """Finish a rotation that the ledger has noted; where the old log is.

    None when the log was not renamed yet: then the rotation is taken back. Raises OSError, and LogChanged for files
    that no rotation leaves behind.
    """
    assert ledger.rotating is not None
    target = path.with_name(ledger.rotating)
    current, moved = _size(path), _size(target)
    if current == ledger.size and not moved:
        if moved == 0:
            _remove_reservation(target)
        ledger.rotate_to(None)
        return None
    if current or moved != ledger.size:
        raise LogChanged(
            f"{path} was being rotated to {target}; the ledger expects {ledger.size} bytes in one of them and nothing "
            f"in the other, found {current} and {moved}: put them back, or start once with --accept-log"
        )
    go_on_with(path, mode, ledger)
    return target


def go_on_with(path: Path, mode: int, ledger: Ledger) -> None:
    """Make the file of this name the log, an empty one if there is none; the one before was put aside.

    Raises OSError, and LogChanged when the name leads to what is no file.
    """
    sync_directory(path.parent)  # the move first, or a power cut may keep the new name alone
    if _size(path) is None:
        create_log(path, mode)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LogChanged(f"{path} is no file any more")
    ledger.adopt(status.st_size, status.st_ino)


def rotated(path: Path) -> list[Path]:
    """The rotated files of the log `path`, compressed or not, in the order of writing."""
    return [file for file in _of_rotations(path) if _size(file)]


def drop_reservations(path: Path) -> None:
    """Remove the names that rotations reserved and did not use. Only while no rotation is under way."""
    for file in _of_rotations(path):
        if _size(file) == 0:
            _remove_reservation(file)


def _of_rotations(path: Path) -> list[Path]:
    """Rotated files, and names reserved for them: those are empty until the log is there, at once and whole."""
    with os.scandir(path.parent) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith(path.name))
    files = [path.with_name(name) for name in names if _SUFFIX.fullmatch(name[len(path.name) :])]
    return [file for file in files if _has_time(file, path)]


def _has_time(file: Path, path: Path) -> bool:
    try:
        _time_of(file, path)
    except ValueError:  # a 13th month: somebody else's file
        return False
    return True


def _time_of(file: Path, path: Path) -> datetime:
    """The time in the name of a rotated file of `path`. Raises ValueError."""
    return datetime.strptime(file.name[len(path.name) + 1 :].removesuffix(".gz"), _TIME).replace(tzinfo=UTC)


def _remove_reservation(target: Path) -> None:
    with suppress(OSError):  # an empty file is never taken for a rotated log, and the next start tries again
        target.unlink()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
