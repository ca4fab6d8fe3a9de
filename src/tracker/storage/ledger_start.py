"""The files beside the visit log at a start: the lock, and the ledger, which may be new, empty or damaged.

These are steps 1 and 2 of `tracker.storage.recovery`.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.errors import AppendFailed, ConfigurationError, LedgerDamaged, LogChanged, TrackerError
from tracker.files import OPERATOR_FAULTS, make_directory, sync_directory, take_lock
from tracker.storage.ledger import Ledger
from tracker.storage.ledger_schema import COST_OF_A_NEW_LEDGER
from tracker.visit_log_files import damaged_ledger_path, ledger_path, lock_path, sqlite_files

log = logging.getLogger(__name__)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of the log `path`. Raises HeldByAnother, naming the process that holds it."""
    lock = lock_path(path)
    try:
        make_directory(lock.parent, 0o777)
        descriptor = take_lock(lock, f"{path} already has a writer")
    except OSError as error:
        raise unusable_path_error(error) from error
    try:
        yield
    finally:
        os.close(descriptor)


def open_existing_or_new(path: Path, accept: bool) -> Ledger:
    """Open the ledger of the log `path`, or make one. With `accept`, a damaged one is put aside first.

    Raises LogChanged for an empty ledger beside a log with lines, LedgerDamaged, and ConfigurationError.
    """
    file = ledger_path(path)
    try:
        if not accept:
            _refuse_emptied(file, path)
            return Ledger(file)
        try:
            return Ledger(file)
        except LedgerDamaged as error:
            _set_aside(file, error)
            return Ledger(file)
    except OSError as error:
        raise unusable_path_error(error) from error


def _refuse_emptied(file: Path, log_path: Path) -> None:
    """Refuse an empty ledger beside a log with lines. SQLite would open it as a new ledger, which knows no line."""
    if file.exists() and log_path.exists() and not file.stat().st_size and log_path.stat().st_size:
        raise LogChanged(
            f"{file} is empty and {log_path} is not: put the ledger back, or start once with --accept-log to begin a "
            f"new one. {COST_OF_A_NEW_LEDGER}"
        )


def _set_aside(file: Path, error: LedgerDamaged) -> None:
    """Rename a damaged ledger with the files that belong to it, so that a new one can begin."""
    target = damaged_ledger_path(file)
    # The database is renamed first. After a crash SQLite then finds a write-ahead log without its database, and deletes
    # it. In another order it could find the database without its write-ahead log, and would read an older state.
    for source, renamed in zip(sqlite_files(file), sqlite_files(target), strict=True):
        with contextlib.suppress(FileNotFoundError):
            source.rename(renamed)
    sync_directory(file.parent)
    log.warning(
        "ledger_set_aside file=%s error=%s; The damaged ledger has this name now. A new ledger begins with the log as "
        "it is.",
        *(target, error),
    )


def unusable_path_error(error: OSError) -> TrackerError:
    """The error to raise when the log's directory or files cannot be used.

    A wrong path or permission is a configuration error. A full or failing disk is none: the supervisor starts storage
    again.
    """
    if error.errno in OPERATOR_FAULTS:
        return ConfigurationError(f"log.path: expected a directory and a file that can be written: {error}")
    return AppendFailed(f"log.path cannot be written: {error}")
