"""Rotation: between two appends the visit log becomes a closed log, and an empty file becomes the visit log.

Promises: no line is lost, repeated or split over two files, wherever the process ends or the power fails. The names of
closed logs sort in the order of writing. No existing file is overwritten. The steps, in the order that these promises
need:

1. The ledger makes a checkpoint: what is pending belongs to the log that is about to be closed.
2. A name is reserved: an empty file is created. That fails if a file of this name exists, so the rename in step 4
   overwrites nobody's file.
3. The ledger records the name, so that a start after a crash knows where the log may be.
4. The log is renamed to the reserved name.
5. The directory is synced. Otherwise a power cut could keep the new log (step 6) and undo the rename.
6. An empty log is created.
7. The directory is synced again.
8. The ledger records the empty file as the log.

If step 2 or 4 fails, the rotation is undone and put off: visits are appended to the old log, and the rotation is tried
again ten seconds later. If the ledger cannot be written, nothing can be appended either, and the writer pauses. After
step 4 the rotation has to be finished before the next append. `finish_rotation` continues where the steps were
interrupted, in the running service or at the next start.
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
from tracker.storage.log_file import create_log, error_between_appends
from tracker.visit_log_files import size_of

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0  # after a rotation was put off

_PERIOD_SECONDS = {"hour": 3_600, "day": 86_400}


class Rotation:
    """Decides when the log `path` is rotated, and rotates it. Every method is called in the owner thread."""

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
            closed = None
            if self._ledger.rotating is not None:
                closed = finish_rotation(self._path, self._mode, self._ledger)
        except OSError as error:
            raise error_between_appends(error, f"{self._path} cannot be rotated") from error
        if closed is not None:
            self._put_off_until = None
        elif failure is not None:
            self._put_off(failure)
        return closed

    def follow(self) -> bool:
        """Record the file that has the log's name as the log. Returns whether it is another file than before.

        It is called after somebody may have renamed the log, and after a checkpoint of the ledger. Raises AppendPaused,
        after which it is called again before the next append, and AppendFailed.
        """
        try:
            status = self._path.stat() if self._path.exists() else None
            if status is not None and status.st_ino == self._ledger.inode:
                return False
            continue_with_file_at(self._path, self._mode, self._ledger)
            return True
        except OSError as error:
            raise error_between_appends(error, f"{self._path} cannot be reopened") from error

    def _begin(self) -> Exception | None:
        """Steps 2 to 4. Returns the error if one of them failed, otherwise None. Raises what the ledger raises."""
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
            return error  # `finish_rotation` undoes the rotation, or finds that the log was renamed despite the error
        return None

    def reserve(self) -> Path:
        """Create an empty file whose name sorts behind the names of all closed logs.

        Raises OSError, and OverflowError when a file with the last possible time, of the year 9999, exists.
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
                "appended to it, and it grows. Fix what the error names; storage then tries the rotation again.",
                *(self._path, error.strerror if isinstance(error, OSError) else error, RETRY_SECONDS),
            )
        self._put_off_until = time.monotonic() + RETRY_SECONDS


def finish_rotation(path: Path, mode: int, ledger: Ledger) -> Path | None:
    """Finish a rotation that the ledger has recorded (steps 5 to 8). Returns the closed log.

    If the log was not renamed yet, the rotation is undone, and None is returned. Raises OSError, and LogChanged when
    the files are not as any step of a rotation leaves them.
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
    continue_with_file_at(path, mode, ledger)
    return target


def continue_with_file_at(path: Path, mode: int, ledger: Ledger) -> None:
    """Steps 5 to 8: record the file at `path` as the log; create an empty one if there is none.

    Raises OSError, and LogChanged when `path` leads to something that is not a regular file.
    """
    sync_directory(path.parent)
    if size_of(path) is None:
        create_log(path, mode)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LogChanged(f"{path} is not a regular file any more")
    ledger.record_log(status.st_size, status.st_ino)


def remove_reserved_names(path: Path) -> None:
    """Remove the empty files that rotations have reserved and not used. Call it only while no rotation is recorded."""
    for file in visit_log_files.closed_or_reserved(path):
        if size_of(file) == 0:
            _remove_reserved(file)


def _remove_reserved(file: Path) -> None:
    with suppress(OSError):  # an empty file is never taken for a closed log, and the next start tries again
        file.unlink()
