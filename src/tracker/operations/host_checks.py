"""What the services stand on: their directories, disks, locks and limits.

Nothing of theirs is written, and none of their locks is taken: a service that starts meanwhile is not disturbed.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tracker.config import LogConfig, OutboxConfig
from tracker.errors import TrackerError
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.pixel.control import BACKLOG
from tracker.pixel.outbox import PUBLISHER_LOCK, REFUSED
from tracker.storage.accounts import read_extent
from tracker.storage.recovery import ledger_dir, ledger_path

FULL_SHARE = 0.02  # of the disk free, and below
NEARLY_FULL_SHARE = 0.10
FEWEST_FILES = 4096  # a connection is a descriptor
GIB = 1 << 30


def check_outbox(config: OutboxConfig) -> Iterator[Finding]:
    directory = Path(config.dir)
    try:
        entries = list(os.scandir(directory))
    except OSError as error:
        yield _unreadable("outbox", directory, error)
        return
    yield from _check_permissions("outbox", directory)
    used = sum(file.stat().st_size for file in _files(directory))
    room = max(0, config.max_bytes - used)
    disk = shutil.disk_usage(directory)
    if disk.free < room:
        yield warning(
            "outbox",
            f"the disk has {_size(disk.free)} free, and the outbox may still grow by {_size(room)}",
            why="when SNS is away the disk is full before the outbox is, and visits are discarded (outbox_io)",
            mend=f"lower outbox.max_bytes to {used + disk.free * 9 // 10} or give {directory} a larger disk",
        )
    yield judge_disk("outbox", directory, disk.free, disk.total)
    if bad := [entry.name for entry in entries if entry.name.endswith(".bad")]:
        yield warning(
            "outbox",
            f"journals that cannot be read were set aside: {', '.join(sorted(bad))}",
            why="visits in them are not published",
            mend="keep a copy, read the pixel's log for journal_unreadable, check the disk; then remove them",
        )
    refused = directory / REFUSED
    if refused.exists() and refused.stat().st_size:
        yield warning(
            "outbox",
            f"{refused} holds visits that SNS refuses",
            why="they are in no log",
            mend="read why in the pixel's log (span_refused); keep the file, then remove it",
        )
    yield from _check_lock("outbox", directory / PUBLISHER_LOCK, "pixel", "tracker-pixel")


def check_log(config: LogConfig) -> Iterator[Finding]:
    path = Path(config.path)
    if path.is_symlink():
        yield fault(
            "visit log",
            f"{path} is a symbolic link",
            why="storage refuses it: a rotation would move the link and not the file",
            mend=f"set log.path to {path.resolve()}",
        )
        return
    try:
        there = os.listdir(path.parent)
    except OSError as error:
        yield _unreadable("visit log", path.parent, error)
        return
    yield from _check_permissions("visit log", path.parent)
    disk = shutil.disk_usage(path.parent)
    yield judge_disk("visit log", path.parent, disk.free, disk.total)
    if torn := sorted(name for name in there if name.startswith(f"{path.name}.torn-")):
        yield warning(
            "visit log",
            f"a crash left {', '.join(torn)}",
            why="harmless: their visits came again and are in the log; they hold addresses all the same",
            mend="remove them",
        )
    yield from _check_ledger(ledger_path(path))
    yield from _check_lock("visit log", ledger_dir(path) / "lock", "storage", "tracker-storage")


def _check_ledger(ledger: Path) -> Iterator[Finding]:
    if not os.path.lexists(ledger):
        return  # storage has never run here, and its lock says so
    try:
        read_extent(ledger)
    except TrackerError as error:
        yield fault(
            "visit log",
            str(error),
            why="without its ledger storage can write nothing; visits wait in the queue, for as long as its retention",
            mend="run the doctor as the service's user; see docs/operations.md, a ledger that cannot be used",
        )


def judge_disk(subject: str, directory: Path, free: int, total: int) -> Finding:
    """What so many free bytes of so many mean."""
    what = f"{_size(free)} of {_size(total)} are free on the disk of {directory}"
    if free > total * NEARLY_FULL_SHARE or free > 20 * GIB:
        return ok(subject, what)
    why = {
        "outbox": "without room visits are answered and discarded (outbox_io)",
        "visit log": "without room storage pauses; visits wait in the queue, for as long as its retention",
    }[subject]
    level = fault if free < total * FULL_SHARE else warning
    return level(subject, what, why=why, mend="make room, or move it to a larger disk (docs/operations.md)")


def _unreadable(subject: str, directory: Path, error: OSError) -> Finding:
    if isinstance(error, FileNotFoundError):
        return warning(
            subject,
            f"{directory} is not there",
            why="the service has never run with this configuration here, or its disk is not mounted",
            mend="run the doctor where the service runs, from its working directory; mount the disk",
        )
    return unknown(
        subject, f"{directory}: {error.strerror}", mend="run the doctor as the service's user: sudo -u tracker"
    )


def _check_permissions(subject: str, directory: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & stat.S_IWOTH:
        yield fault(
            subject,
            f"everybody may write to {directory} (mode {mode:04o})",
            why="anybody on this machine may remove or replace what is recorded",
            mend=f"chmod 0750 {directory}",
        )
    elif mode & stat.S_IROTH and mode & stat.S_IXOTH:
        yield warning(
            subject,
            f"everybody may look into {directory} (mode {mode:04o})",
            why="visitors' addresses are personal data; the files are 0640, and this is the second fence",
            mend=f"chmod 0750 {directory}",
        )


def _check_lock(subject: str, lock: Path, service: str, unit: str) -> Iterator[Finding]:
    holder = lock_holder(lock)
    if holder is None:
        yield warning(
            subject,
            f"no {service} holds {lock}",
            why=f"no {service} is running on it",
            mend=f"systemctl start {unit}; journalctl -u {unit} says why it ended",
        )
        return
    yield ok(subject, f"locked by {service}, process {holder}")
    files = _open_files_limit(holder)
    if service == "pixel" and files is not None and files < FEWEST_FILES:
        yield warning(
            "limits",
            f"the pixel may open {files} files",
            why="each connection is one; beyond, new visitors wait",
            mend="LimitNOFILE=65536 in the unit, or ulimit -n 65536",
        )
    backlog = _somaxconn()
    if service == "pixel" and backlog is not None and backlog < BACKLOG:
        yield warning(
            "limits",
            f"the kernel queues {backlog} connections that are not accepted yet, the pixel asks for {BACKLOG}",
            why="a burst of new visitors is turned away while the workers start",
            mend=f"sysctl -w net.core.somaxconn={BACKLOG}",
        )


def lock_holder(lock: Path) -> int | None:
    """The process that holds a flock on the file, as the kernel says; taking the lock to see would disturb a start."""
    try:
        inode = lock.stat().st_ino
        table = Path("/proc/locks").read_text()
    except OSError:
        return None
    found = re.search(rf"FLOCK +ADVISORY +WRITE +(-?\d+) +[0-9a-f]+:[0-9a-f]+:{inode} ", table)
    return int(found[1]) if found else None


def _open_files_limit(process: int) -> int | None:
    try:
        found = re.search(r"^Max open files +(\d+)", Path(f"/proc/{process}/limits").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _somaxconn() -> int | None:
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return None


def _files(directory: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from _files(Path(entry.path))
            except OSError:
                continue  # published and removed while we looked
        else:
            yield entry


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
