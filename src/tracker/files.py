"""What both services need of the file system beyond the standard library. What blocks on the disk is for threads."""

import contextlib
import errno
import os
import resource
from pathlib import Path

_UNLIMITED = 1 << 20  # open files; more connections than that are not one process's

# Errors that an operator has to mend. Every other may be over by the next start: a full, failing or read-only disk.
OPERATOR_FAULTS = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP, errno.EISDIR}

fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


def reason(error: OSError) -> str:
    """What the system says of an error, without what a library adds to it."""
    if error.errno is None or error.errno <= 0:  # a name that cannot be looked up has a number of its own
        return error.strerror or str(error)
    return os.strerror(error.errno)


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
