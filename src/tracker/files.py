"""What both services need of the file system beyond the standard library. What blocks on the disk is for threads."""

import contextlib
import os
import resource
from pathlib import Path

_UNLIMITED = 1 << 20  # open files; more connections than that are not one process's

fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def raise_open_files() -> int:
    """Let this process open as many files as the system allows it; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than the hard limit it names
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else _UNLIMITED
