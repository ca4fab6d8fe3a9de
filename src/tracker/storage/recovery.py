"""The start of the visit log: one writer at a time, and a log that agrees with its ledger before the first append.

Only the pending append can be in doubt after a crash. Whole, it is written again in place, because reading it back
proves nothing after a failed fsync; torn, what there is of it is kept in a file of its own and cut off, for its
messages come again. Anything else is not ours to explain: the start is refused until the operator says `--accept-log`.
"""

import fcntl
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tracker.errors import AppendFailed, ConfigurationError, LogChanged
from tracker.files import fdatasync, make_directory, sync_directory
from tracker.storage.ledger import Ledger, Pending

log = logging.getLogger("tracker.recovery")


def ledger_dir(path: Path) -> Path:
    """Where the ledger of the log `path` and its lock are."""
    return path.with_name(f"{path.name}.d")


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the log's lock; raises AppendFailed naming the process that has it."""
    lock = ledger_dir(path) / "lock"
    try:
        make_directory(lock.parent, 0o777)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigurationError(f"log.path: expected a place that can be written: {error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise AppendFailed(f"{path} already has a writer: process {holder} holds {lock}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def open_ledger(path: Path, mode: int, *, accept: bool) -> Ledger:
    """The ledger of the log `path`, the two in agreement; raises LogChanged when they cannot be brought there."""
    if path.is_symlink():  # a rotation would move the link, and the file would stay under no name we know
        raise ConfigurationError(f"log.path: expected a file, {path} is a symbolic link: name {path.resolve()}")
    try:
        ledger = Ledger(ledger_dir(path) / "ledger.sqlite")
        try:
            _agree(path, mode, ledger, accept)
        except BaseException:
            ledger.close()
            raise
        sync_directory(ledger_dir(path))
    except OSError as error:
        raise AppendFailed(f"{path}: cannot be recovered: {error}") from error
    return ledger


def _agree(path: Path, mode: int, ledger: Ledger, accept: bool) -> None:
    sync_directory(path.parent)  # the ledger's directory may be new
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
        ledger.adopt(size)
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
        ledger.adopt(size)


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
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        os.fchmod(descriptor, mode)  # what is configured, whatever the umask
        os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(f"log.path: expected a place that can be written: {error}") from error
    sync_directory(path.parent)  # before the ledger says that there is a log


def _refusal(path: Path, what: str) -> LogChanged:
    return LogChanged(f"{path} {what}: put the log back, or start once with --accept-log to go on with it as it is")
