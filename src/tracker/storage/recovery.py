"""The start of the visit log: one writer at a time, and a log that agrees with its ledger before the first append.

Only the pending append can be in doubt after a crash. Whole, it is written again in place, because reading it back
proves nothing after a failed fsync; torn, what there is of it is kept in a file of its own and cut off, for its
messages come again. Anything else is not ours to explain: the start is refused until the operator says `--accept-log`.
"""

import contextlib
import fcntl
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tracker.errors import (
    AppendFailed,
    ConfigurationError,
    HeldByAnother,
    LedgerDamaged,
    LogChanged,
    TrackerError,
)
from tracker.files import OPERATOR_FAULTS, fdatasync, make_directory, sync_directory
from tracker.storage.ledger import COST_OF_A_NEW_LEDGER, Ledger, Pending
from tracker.storage.rotation import drop_reservations, finish, go_on_with
from tracker.storage.visit_log import CHANGED_BY, create_log

log = logging.getLogger("tracker.recovery")


def ledger_dir(path: Path) -> Path:
    """Where the ledger of the log `path` and its lock are."""
    return path.with_name(f"{path.name}.d")


def ledger_path(path: Path) -> Path:
    return ledger_dir(path) / "ledger.sqlite"


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the log's lock; raises HeldByAnother naming the process that has it."""
    lock = ledger_dir(path) / "lock"
    try:
        make_directory(lock.parent, 0o777)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise _no_place(error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise HeldByAnother(f"{path} already has a writer: process {holder} holds {lock}") from None
        with contextlib.suppress(OSError):  # a full disk: the number is only a courtesy
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def open_ledger(path: Path, mode: int, *, accept: bool) -> Ledger:
    """The ledger of the log `path`, the two in agreement; raises LogChanged when they cannot be brought there."""
    try:
        ledger = _open(path, accept)
        try:
            _agree(path, mode, ledger, accept)
            sync_directory(ledger_dir(path))
        except BaseException:
            ledger.close()
            raise
    except OSError as error:
        raise AppendFailed(f"{path}: cannot be recovered: {error}") from error
    return ledger


def _open(path: Path, accept: bool) -> Ledger:
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
        raise _no_place(error) from error


def _refuse_emptied(file: Path, log_path: Path) -> None:
    """To SQLite an empty file is a new database: it would forget all that the log holds."""
    if file.exists() and log_path.exists() and not file.stat().st_size and log_path.stat().st_size:
        raise LogChanged(
            f"{file} is empty and {log_path} is not: put the ledger back, or start once with --accept-log to begin a "
            f"new one. {COST_OF_A_NEW_LEDGER}"
        )


def _set_aside(file: Path, error: LedgerDamaged) -> None:
    """Rename a damaged ledger with the files that belong to it, so that a new one can begin."""
    target = f"{file.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    # The database first: SQLite deletes a write-ahead log that it finds without one, and would read an older state
    # from a database without its write-ahead log.
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + suffix).rename(file.with_name(target + suffix))
    sync_directory(file.parent)
    log.warning("ledger_set_aside file=%s error=%s; a new ledger begins with the log as it is", target, error)


def _agree(path: Path, mode: int, ledger: Ledger, accept: bool) -> None:
    try:
        sync_directory(path.parent)  # the ledger's directory may be new
    except OSError as error:
        raise _no_place(error) from error
    if path.is_symlink():
        raise ConfigurationError(f"log.path: expected the file itself, {path} is a symbolic link to {path.resolve()}")
    _finish_rotation(path, mode, ledger, accept)
    _follow_move(path, mode, ledger)
    expected = ledger.size
    if not path.exists() and ((not expected and ledger.is_settled) or accept):
        _create(path, mode)
    if not path.exists():
        raise _refusal(path, f"is missing, the ledger expects {expected} bytes")
    if not path.is_file():
        raise ConfigurationError(f"log.path: expected a file, {path} is none")
    size = path.stat().st_size
    if expected is None:
        log.info("log_taken_over path=%s bytes=%d", path, size)
        ledger.adopt(size, path.stat().st_ino)
        return
    if (pending := ledger.pending) is not None:
        if size >= expected and (size <= pending.end or accept):
            _resolve(path, ledger, pending)
            expected, size = ledger.size, path.stat().st_size
        elif not accept:
            raise _refusal(path, f"has {size} bytes, the ledger expects {expected} to {pending.end}")
    if size != expected and not accept:
        raise _refusal(path, f"has {size} bytes, the ledger expects {expected}")
    if size != expected:
        log.warning("log_accepted path=%s bytes=%d ledger_bytes=%s", path, size, expected)
    # Another inode alone is no change of the log: it was restored, or moved to another disk.
    if (size, path.stat().st_ino) != (expected, ledger.inode):
        ledger.adopt(size, path.stat().st_ino)


def _finish_rotation(path: Path, mode: int, ledger: Ledger, accept: bool) -> None:
    if ledger.rotating is not None:
        if accept:
            ledger.rotate_to(None)
        else:
            finish(path, mode, ledger)
    drop_reservations(path)


def _follow_move(path: Path, mode: int, ledger: Ledger) -> None:
    """Go on with an empty log where the old one was put aside, whole, beside it: what logrotate's `create` does."""
    expected = ledger.size
    if expected is None or (path.exists() and (path.stat().st_size or path.stat().st_ino == ledger.inode)):
        return
    with os.scandir(path.parent) as entries:
        moved = next((Path(entry.path) for entry in entries if entry.inode() == ledger.inode), None)
    if moved is None or not moved.is_file():
        return
    size, pending = moved.stat().st_size, ledger.pending
    if not expected <= size <= (pending.end if pending else expected):
        return
    if pending is not None:
        _resolve(moved, ledger, pending)
    go_on_with(path, mode, ledger)
    log.info("log_followed path=%s moved_to=%s bytes=%d", path, moved.name, size)


def _resolve(path: Path, ledger: Ledger, pending: Pending) -> None:
    with path.open("r+b") as file:  # no O_APPEND: Linux would append even what is written at an offset
        data = os.pread(file.fileno(), pending.length, pending.offset)
        if len(data) == pending.length and zlib.crc32(data) == pending.crc32:
            log.info("append_completed path=%s offset=%d length=%d", path, pending.offset, pending.length)
            file.seek(pending.offset)
            file.write(data)
            file.flush()
            fdatasync(file.fileno())
            ledger.durable()
        elif os.fstat(file.fileno()).st_size <= pending.end:
            if data:
                _keep_torn(path, data)
            log.warning("append_dropped path=%s offset=%d bytes=%d", path, pending.offset, len(data))
            os.ftruncate(file.fileno(), pending.offset)
            os.fsync(file.fileno())
    ledger.settle()


def _keep_torn(path: Path, data: bytes) -> None:
    kept = path.with_name(f"{path.name}.torn-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    with kept.open("xb") as file:
        os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(kept.parent)


def _create(path: Path, mode: int) -> None:
    try:
        create_log(path, mode)
    except OSError as error:
        raise _no_place(error) from error


def _no_place(error: OSError) -> TrackerError:
    """A full or failing disk is no configuration error, after which nobody starts the process again."""
    if error.errno in OPERATOR_FAULTS:
        return ConfigurationError(f"log.path: expected a directory and a file that can be written: {error}")
    return AppendFailed(f"log.path cannot be written: {error}")


def _refusal(path: Path, what: str) -> LogChanged:
    return LogChanged(
        f"{path} {what}: {CHANGED_BY}; put the log back, or start once with --accept-log to go on with it as it is"
    )
