"""What both services need of the file system beyond the standard library. Blocks on the disk: for threads."""

import contextlib
import os
from pathlib import Path

fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int) -> None:
    """Make `path` and the directories above it that are not there, each of them durable. Raises OSError."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_directory(path.parent, 0o777)
    path.mkdir(mode, exist_ok=True)  # the other service may be making it too
    try:
        sync_directory(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            path.rmdir()  # it would be taken for durable the next time
        raise
