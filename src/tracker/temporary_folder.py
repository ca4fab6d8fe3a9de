"""Temporary folders of which nothing stays, also when their process is killed.

1. The folders whose lock nobody holds are removed. Their processes were killed, or the machine lost its power.
2. A folder is made under TMPDIR, with a lock in it, which is held until the folder is removed.

A process may remove a folder (step 1) between the two halves of another one's step 2. The second one notices that its
lock is not in the folder, and makes another folder.
"""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracker.errors import HeldByAnother, TrackerError
from tracker.files import reason, take_lock

_PREFIX = "tracker-temporary-"
_OURS = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")  # as mkdtemp makes names
_LOCK = "lock"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for this process and user alone. Raises TrackerError, naming TMPDIR, when none can be made there."""
    # Without a look at TMPDIR, `tempfile` would take another folder for one that is full, missing or read-only.
    parent = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    try:
        _remove_abandoned(parent)
        folder, lock = _make(parent)
    except OSError as error:
        raise TrackerError(
            f"no temporary folder can be made in {parent}: {reason(error)}. Set TMPDIR to a folder with room"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what stays is removed by step 1 of the next folder
        os.close(lock)


def _make(parent: Path) -> tuple[Path, int]:
    """The folder, and the descriptor that holds its lock. Raises OSError."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = take_lock(folder / _LOCK, "temporary folder")
        except (FileNotFoundError, HeldByAnother):
            continue  # another process removes the folder
        with suppress(FileNotFoundError):
            if (folder / _LOCK).stat().st_ino == os.fstat(lock).st_ino:
                return folder, lock
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    with os.scandir(parent) as entries:
        found = [Path(entry) for entry in entries if _OURS.fullmatch(entry.name)]
    for folder in found:
        # Somebody else's is left alone, and one that cannot be removed does no harm.
        with suppress(OSError, HeldByAnother):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                lock = take_lock(folder / _LOCK, "temporary folder")
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
