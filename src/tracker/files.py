"""File system functions that both services need. Those that wait for the disk are called in threads."""

import contextlib
import errno
import fcntl
import io
import os
import re
import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tracker.errors import ConfigurationError, HeldByAnother

_UNLIMITED = 1 << 20  # the number of open files that `raise_open_files` returns when there is no limit

# The errors of fsync for a directory on a file system that cannot sync directories, such as some FUSE mounts.
_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}

# Errors that the operator has to fix. Others, such as a full, failing or read-only disk, may be over at the next start.
OPERATOR_FAULTS = {
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP, errno.EISDIR),
    errno.ENAMETOOLONG,
    *_NOT_SYNCED,
}

_NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|gfs2|ocfs2|lustre|beegfs"
    r"|fuse\.(sshfs|glusterfs|s3fs|ceph\S*|rclone|gcsfuse|juicefs|mountpoint-s3)"
)

fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def reason(error: OSError) -> str:
    """The system's text for an error, without the details that a library adds."""
    if error.errno is None or error.errno <= 0:  # such as getaddrinfo's EAI_NONAME, which is not an errno
        return error.strerror or str(error)
    return os.strerror(error.errno)


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in `path` durable.

    Raises OSError. Where the file system cannot sync a directory, the error says what to do.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
        raise OSError(
            error.errno,
            f"fsync of a directory is refused ({os.strerror(error.errno)}), so no file in it survives a power cut: "
            "use a directory on a local file system such as ext4 or XFS",
            str(path),
        ) from error
    finally:
        os.close(fd)


def refuse_network_file_system(directory: Path, key: str) -> None:
    """Raise ConfigurationError, naming `key`, when `directory` is on a network file system.

    On such a file system flock(2) and the page cache do not work as the outbox and the visit log need them. `directory`
    need not exist yet. Only Linux is checked, by /proc/self/mountinfo.
    """
    _, kind = mount_of(directory)
    if _NETWORK_FILE_SYSTEMS.fullmatch(kind):
        raise ConfigurationError(f"{key}: expected a directory on a local file system, {directory} is on {kind}")


def mount_of(path: Path) -> tuple[str, str]:
    """Where the file system that holds `path` is mounted, and its type, such as ext4. Both are "" except on Linux.

    `path` need not exist yet. Raises OSError.
    """
    mount_point, kind = "", ""  # of the innermost mount that holds the path
    if sys.platform != "linux":
        return mount_point, kind
    inside = f"{path.resolve()}/"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        # Space, tab, newline and backslash are written as three octal digits.
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        if inside.startswith(mount.rstrip("/") + "/") and len(mount) >= len(mount_point):
            mount_point, kind = mount, right.split(" ")[0]
    return mount_point, kind


def room_for(path: Path, needed: int) -> str:
    """For an error of a write of `needed` bytes: whether the disk is full, how much is free, and where.

    The text is "" if that cannot be found out. Blocks on the disk.
    """
    try:
        status, (mount_point, kind) = os.statvfs(path), mount_of(path)
    except OSError:
        return ""
    free = status.f_bavail * status.f_frsize
    is_full = "the disk is full" if free < needed else "the disk is not full: look for a quota or a limit of file sizes"
    where = f"{mount_point} ({kind})" if mount_point else f"the disk of {path}"
    return f": {is_full}, {free} bytes are free on {where}"


def raise_open_files() -> int:
    """Raise the limit of open files of this process as far as the system allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than the hard limit that it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else _UNLIMITED


def take_lock(path: Path, purpose: str) -> int:
    """Lock the file `path` for this process with flock(2) and write the process number into it.

    Returns the descriptor that holds the lock; closing it releases the lock. The error's text begins with `purpose`.

    Raises HeldByAnother, naming the process that has the lock, and OSError when the file cannot be opened. A symbolic
    link in the place of the file is not followed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise HeldByAnother(f"{purpose}: process {holder} holds {path}") from error
        raise
    with contextlib.suppress(OSError):  # such as a full disk; the number is only used in the text of the error above
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def open_exclusively(file: Path) -> AbstractContextManager["io.BufferedReader[Any]"]:
    """The regular file `file`, open for reading, and locked as long as it is open: to replace its content.

    Raises HeldByAnother when another process has locked it, by this function or by `open_shared`, or when it replaces
    the file. Raises OSError when it cannot be opened.
    """
    return _open_locked(file, fcntl.LOCK_EX)


def open_shared(file: Path) -> AbstractContextManager["io.BufferedReader[Any]"]:
    """The same, for those who only read: several may have the file open this way, and nobody exclusively."""
    return _open_locked(file, fcntl.LOCK_SH)


@contextmanager
def _open_locked(file: Path, kind: int) -> Iterator["io.BufferedReader[Any]"]:
    # O_NONBLOCK: without it, the opening of a pipe waits until somebody writes to it.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "expected a regular file, it is something else", str(file))
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HeldByAnother(f"another process works on {file}: try again when it has ended") from error
        named = os.stat(file, follow_symlinks=False)
        if (named.st_dev, named.st_ino) != (status.st_dev, status.st_ino):
            raise HeldByAnother(f"another process has replaced {file}: try again")
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int) -> None:
    """Create `path` and its missing parent directories, each of them durable. Raises OSError."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_directory(path.parent, 0o777)
    path.mkdir(mode, exist_ok=True)  # the other service may create it at the same time
    try:
        sync_directory(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            path.rmdir()  # otherwise the next call would find it and return without a sync
        raise
