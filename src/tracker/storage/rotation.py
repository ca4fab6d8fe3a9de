"""Rotation: between two appends the visit log becomes a closed log, and an empty file becomes the visit log.

Promises: no line is lost, repeated or split over two files, wherever the process ends or the power fails. The names of
closed logs sort in the order of writing. No existing file is overwritten. The steps, in the order that these promises
need:

1. The ledger makes a checkpoint: what is pending belongs to the log that is about to be closed.
2. A name is reserved: an empty file is created, so that the rename in step 4 overwrites nobody's file.
3. The ledger records the name, so that a start after a crash knows where the log may be.
4. The log is renamed to it.
5. The directory is synced. Otherwise a power cut could keep the new log (step 6) and undo the rename.
6. An empty log is created.
7. The directory is synced again.
8. The ledger records the empty file as the log.

Up to and including step 4 a failure is undone and the rotation is put off: visits are appended to the old log, and the
rotation is tried again ten seconds later. After step 4 it has to be finished before the next append, which waits for
that. `finish` continues wherever the steps were interrupted, in the running service or at the next start.
"""

import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tracker import telemetry, visit_log_files
from tracker.config import Rotate
from tracker.errors import AppendFailed, LogChanged
from tracker.files import sync_directory
from tracker.storage.ledger import Ledger
from tracker.storage.log_file import between_appends, create_log
from tracker.visit_log_files import size_of

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0  # between two tries of a rotation that cannot begin

_PERIOD_SECONDS = {"hour": 3_600, "day": 86_400}


class Rotation:
    """Decides when the log `path` is rotated, and makes the steps. Everything here runs in the owner thread."""

    def __init__(
        self, *, path: Path, mode: int, config: Rotate, ledger: Ledger, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._mode = mode
        self._config = config
        self._ledger = ledger
        self._clock = clock  # seconds since 1970
        self._put_off_until: float | None = None  # by the monotonic clock; None while rotations succeed

    def is_due(self, log: os.stat_result) -> bool:
        """Whether the log has reached its size, or its last append lies in an hour or a day (UTC) that is over."""
        if self._ledger.rotating is not None:
            return True  # it has begun, and has to be finished before the next append
        if not log.st_size or (self._put_off_until is not None and time.monotonic() < self._put_off_until):
            return False
        if self._config.max_bytes is not None and log.st_size >= self._config.max_bytes:
            return True
        if self._config.every is None:
            return False
        period = _PERIOD_SECONDS[self._config.every]
        return self._clock() // period > log.st_mtime // period

    def rotate(self) -> Path | None:
        """Make all steps. Returns the closed log, or None when the rotation was put off.

        Raises AppendPaused, after which it is called again before the next append, and AppendFailed. The caller has
        checked that the name leads to the file it writes.
        """
        self._ledger.checkpoint()
        failure: Exception | None = None
        try:
            if self._ledger.rotating is None:
                failure = self._begin()
            closed = finish(self._path, self._mode, self._ledger) if self._ledger.rotating is not None else None
        except OSError as error:
            raise between_appends(error, f"{self._path} cannot be rotated") from error
        if closed is not None:
            self._put_off_until = None
        elif failure is not None:
            self._put_off(failure)
        return closed

    def follow(self) -> bool:
        """Make the file that has the log's name the log. Returns whether it is another file than before.

        Somebody has put the log aside. The ledger has made a checkpoint. Raises AppendPaused, after which it is called
        again before the next append, and AppendFailed.
        """
        try:
            status = self._path.stat() if self._path.exists() else None
            if status is not None and status.st_ino == self._ledger.inode:
                return False
            go_on_with(self._path, self._mode, self._ledger)
            return True
        except OSError as error:
            raise between_appends(error, f"{self._path} cannot be reopened") from error

    def _begin(self) -> Exception | None:
        """Steps 2 to 4. Returns the error that prevents them. Raises what the ledger raises."""
        try:
            reserved = self.reserve()
        except (OSError, OverflowError) as error:
            return error
        try:
            self._ledger.record_rotation(reserved.name)
        except AppendFailed:
            _remove_reserved(reserved)
            raise
        try:
            self._path.rename(reserved)
        except OSError as error:
            return error  # `finish` undoes the rotation, or finds that the log was renamed in spite of the error
        return None

    def reserve(self) -> Path:
        """Create an empty file whose name sorts behind the names of all closed logs.

        Raises OSError, and OverflowError when no later name is left because somebody made one of the year 9999.
        """
        at = datetime.fromtimestamp(self._clock(), UTC)
        times = [visit_log_files.closed_at(self._path, file) for file in visit_log_files.closed_or_reserved(self._path)]
        if times and times[-1] is not None:
            at = max(at, times[-1] + timedelta(microseconds=1))
        reserved = visit_log_files.closed_log_path(self._path, at)
        os.close(os.open(reserved, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode))
        return reserved

    def _put_off(self, error: Exception) -> None:
        telemetry.ROTATIONS_FAILED.inc()
        if self._put_off_until is None:
            log.error(
                "rotation_put_off path=%s error=%s retry_seconds=%g; The log could not be renamed. Visits are still "
                "stored in it, and it grows. Fix what the error names; the rotation is tried again by itself.",
                *(self._path, error.strerror if isinstance(error, OSError) else error, RETRY_SECONDS),
            )
        self._put_off_until = time.monotonic() + RETRY_SECONDS


def finish(path: Path, mode: int, ledger: Ledger) -> Path | None:
    """Finish a rotation that the ledger has recorded. Returns the closed log.

    Returns None when the log was not renamed yet: then the rotation is undone. Raises OSError, and LogChanged for files
    that no rotation leaves behind.
    """
    assert ledger.rotating is not None
    target = path.with_name(ledger.rotating)
    current, closed = size_of(path), size_of(target)
    if current == ledger.size and not closed:
        if closed == 0:
            _remove_reserved(target)
        ledger.record_rotation(None)
        return None
    if current or closed != ledger.size:
        raise LogChanged(
            f"{path} was being rotated to {target}; the ledger expects {ledger.size} bytes in one of them and nothing "
            f"in the other, found {current} and {closed}: put them back, or start once with --accept-log"
        )
    go_on_with(path, mode, ledger)
    return target


def go_on_with(path: Path, mode: int, ledger: Ledger) -> None:
    """Steps 5 to 8: make the file of this name the log, an empty one if there is none.

    Raises OSError, and LogChanged when the name leads to something that is not a file.
    """
    sync_directory(path.parent)
    if size_of(path) is None:
        create_log(path, mode)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LogChanged(f"{path} is not a regular file any more")
    ledger.record_log(status.st_size, status.st_ino)


def remove_reserved_names(path: Path) -> None:
    """Remove the empty files that rotations have reserved and not used. Only while no rotation is under way."""
    for file in visit_log_files.closed_or_reserved(path):
        if size_of(file) == 0:
            _remove_reserved(file)


def _remove_reserved(file: Path) -> None:
    with suppress(OSError):  # an empty file is never taken for a closed log, and the next start tries again
        file.unlink()
