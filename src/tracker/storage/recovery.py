"""Recovery: at a start, bring the visit log and its ledger into agreement, before anything is appended.

1. `ledger_start.only_writer` takes the log's lock, so that no other storage writes the log.
2. The ledger is opened. A damaged one is refused, or put aside with `--accept-log`.
3. A rotation that was interrupted is finished, or undone if the log was not renamed yet.
4. If somebody has renamed the log while storage was stopped (logrotate's `create`), an empty log is created.
5. The log is compared with the ledger. They can differ by the pending append only, so there are five cases:

   found                                                       done
   ------------------------------------------------------------------------------------------------------------------
   NO_LOG     no log, and the ledger expects none              create an empty log
   NEW_LEDGER a log, and a ledger that has recorded none       take the log over as it is
   AS_LEFT    the expected length, and nothing is pending      continue
   PENDING    a pending append, and the log ends within it     whole (length and CRC-32 agree): write the same bytes
                                                               again in place, sync, merge. After a failed fsync the
                                                               kernel may show bytes that are not on the disk, so
                                                               reading them back proves nothing.
                                                               torn: copy the tail to `<log>.torn-<time>`, cut the log
                                                               back, drop the append. SQS delivers its messages again.
   DIFFERENT  anything else                                    refuse to start. With `--accept-log`, continue with the
                                                               log as it is.
"""

import logging
import os
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

from isal import isal_zlib

from tracker.errors import AppendFailed, ConfigurationError, LogChanged
from tracker.files import fdatasync, sync_directory
from tracker.storage.ledger import Ledger
from tracker.storage.ledger_start import open_existing_or_new, unusable_path_error
from tracker.storage.log_file import CHANGED_BY, create_log
from tracker.storage.pending import Pending
from tracker.storage.rotation import continue_with_file_at, finish_rotation, remove_reserved_names
from tracker.visit_log_files import ledger_directory, size_of, torn_copy_path

log = logging.getLogger(__name__)


def open_ledger(path: Path, mode: int, *, accept: bool) -> Ledger:
    """Open the ledger of the log `path`, and bring the two into agreement.

    `mode` is for a new log. Raises LogChanged when the two cannot be brought into agreement.
    """
    try:
        ledger = open_existing_or_new(path, accept)
        try:
            _bring_into_agreement(path, mode, ledger, accept)
            sync_directory(ledger_directory(path))
        except BaseException:
            ledger.close()
            raise
    except OSError as error:
        raise AppendFailed(f"{path}: cannot be recovered: {error}") from error
    return ledger


class Found(Enum):
    """The cases of the table above."""

    NO_LOG = auto()
    NEW_LEDGER = auto()
    AS_LEFT = auto()
    PENDING = auto()
    DIFFERENT = auto()


def _bring_into_agreement(path: Path, mode: int, ledger: Ledger, accept: bool) -> None:
    """Steps 3 to 5."""
    try:
        sync_directory(path.parent)  # the ledger's directory may be new
    except OSError as error:
        raise unusable_path_error(error) from error
    if path.is_symlink():
        raise ConfigurationError(f"log.path: expected the file itself, {path} is a symbolic link to {path.resolve()}")
    _finish_interrupted_rotation(path, mode, ledger, accept)
    _follow_renamed_log(path, mode, ledger)
    found = _compare(path, ledger)
    if found is Found.DIFFERENT and not accept:
        raise _refusal(path, ledger)
    _ACTIONS[found](path, mode, ledger)


def _compare(path: Path, ledger: Ledger) -> Found:
    """Which case it is. Raises ConfigurationError when the log is not a regular file."""
    if not path.exists():
        return Found.DIFFERENT if ledger.size or ledger.pending else Found.NO_LOG
    if not path.is_file():
        raise ConfigurationError(f"log.path: expected a file, {path} is something else")
    size, expected, pending = path.stat().st_size, ledger.size, ledger.pending
    if expected is None:
        return Found.NEW_LEDGER
    if pending is not None:
        return Found.PENDING if expected <= size <= pending.end else Found.DIFFERENT
    return Found.AS_LEFT if size == expected else Found.DIFFERENT


def _create_empty_log(path: Path, mode: int, ledger: Ledger) -> None:
    try:
        create_log(path, mode)
    except OSError as error:
        raise unusable_path_error(error) from error
    ledger.record_log(0, path.stat().st_ino)


def _take_over(path: Path, mode: int, ledger: Ledger) -> None:
    status = path.stat()
    log.info(
        "log_taken_over path=%s bytes=%d; The log has no ledger yet. It is kept as it is, and visits are appended.",
        *(path, status.st_size),
    )
    ledger.record_log(status.st_size, status.st_ino)


def _continue(path: Path, mode: int, ledger: Ledger) -> None:
    status = path.stat()
    if status.st_ino != ledger.inode:  # the same content in another file: it was restored, or moved to another disk
        ledger.record_log(status.st_size, status.st_ino)


def _resolve_and_continue(path: Path, mode: int, ledger: Ledger) -> None:
    assert ledger.pending is not None
    _resolve_pending(path, ledger, ledger.pending)
    _continue(path, mode, ledger)


def _accept(path: Path, mode: int, ledger: Ledger) -> None:
    """Continue with the log as it is, because the operator says so. A pending append that is whole is kept."""
    expected = ledger.size
    if not path.exists():
        _create_empty_log(path, mode, ledger)
    elif ledger.pending is not None and path.stat().st_size >= (expected or 0):
        _resolve_pending(path, ledger, ledger.pending)
    status = path.stat()
    log.warning(
        "log_accepted path=%s bytes=%d ledger_bytes=%s; The log differs from the ledger. Visits are appended to it as "
        "it is, because --accept-log says so.",
        *(path, status.st_size, expected),
    )
    ledger.record_log(status.st_size, status.st_ino)


_ACTIONS: dict[Found, Callable[[Path, int, Ledger], None]] = {
    Found.NO_LOG: _create_empty_log,
    Found.NEW_LEDGER: _take_over,
    Found.AS_LEFT: _continue,
    Found.PENDING: _resolve_and_continue,
    Found.DIFFERENT: _accept,
}


def _finish_interrupted_rotation(path: Path, mode: int, ledger: Ledger, accept: bool) -> None:
    if ledger.rotating is not None:
        if accept:
            ledger.record_rotation(None)
        else:
            finish_rotation(path, mode, ledger)
    remove_reserved_names(path)


def _follow_renamed_log(path: Path, mode: int, ledger: Ledger) -> None:
    """Continue with the file at `path`, or an empty one, if the whole log has another name in the same directory now.

    logrotate's `create` renames the log like that. The log is recognised by its inode and its length.
    """
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
        _resolve_pending(moved, ledger, pending)
    continue_with_file_at(path, mode, ledger)
    log.info(
        "log_followed path=%s moved_to=%s bytes=%d; Somebody has renamed the log while storage was stopped. It is "
        "complete under its new name, and visits are appended to a new file.",
        *(path, moved.name, size),
    )


def _resolve_pending(path: Path, ledger: Ledger, pending: Pending) -> None:
    """The case PENDING: make a whole append durable, or cut off a torn one; then make a checkpoint."""
    with path.open("r+b") as file:  # without O_APPEND: with it, Linux appends even what is written at an offset
        data = os.pread(file.fileno(), pending.length, pending.offset)
        if len(data) == pending.length and isal_zlib.crc32(data) == pending.crc32:
            log.info(
                "append_completed path=%s offset=%d length=%d; The last append before the crash is whole in the log.",
                *(path, pending.offset, pending.length),
            )
            file.seek(pending.offset)
            file.write(data)
            file.flush()
            fdatasync(file.fileno())
            ledger.durable()
        elif os.fstat(file.fileno()).st_size <= pending.end:
            if data:
                _keep_torn(path, data)
            log.warning(
                "append_dropped path=%s offset=%d bytes=%d; The last append before the crash is not whole in the log. "
                "Its bytes there were copied to a file beside the log and cut off. SQS delivers its messages again.",
                *(path, pending.offset, len(data)),
            )
            os.ftruncate(file.fileno(), pending.offset)
            os.fsync(file.fileno())
    ledger.checkpoint()


def _keep_torn(path: Path, data: bytes) -> None:
    kept = torn_copy_path(path)
    with kept.open("xb") as file:
        os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(kept.parent)


def _refusal(path: Path, ledger: Ledger) -> LogChanged:
    size = size_of(path)
    found = "is missing" if size is None else f"has {size} bytes"
    expected = f"{ledger.size}" if ledger.pending is None else f"{ledger.size} to {ledger.pending.end}"
    if size is None or (ledger.size is not None and size < ledger.size):
        cost = "the visits that the log lacks are not written again, except those that SQS still has"
    else:
        cost = "visits whose messages SQS delivers again may be in the log twice"
    return LogChanged(
        f"{path} {found}, the ledger expects {expected} bytes: {CHANGED_BY}, or the log and {ledger_directory(path)} "
        "are copies of different times; put back the log and that directory from the same copy, or start once with "
        f"--accept-log to continue with the log as it is ({cost})"
    )
