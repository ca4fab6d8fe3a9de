"""Checks of the services' host: their directories, disks, locks and limits.

Nothing is written and no lock is taken, so a service that starts at the same time is not disturbed.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tracker.config import LogConfig, OutboxConfig
from tracker.errors import TrackerError
from tracker.files import mount_of
from tracker.operations.findings import Finding, Level, fault, ok, unknown, warning
from tracker.operations.log_growth import full_in
from tracker.pixel.control import BACKLOG
from tracker.pixel.outbox_files import bad_journals, publisher_lock, refused_lines
from tracker.storage.ledger_reader import read_extent
from tracker.visit_log_files import ledger_path, lock_path, torn_copies

FULL_SHARE = 0.02  # of the disk; with less free space it is a fault
NEARLY_FULL_SHARE = 0.10
FEWEST_FILES = 4096  # each connection needs a descriptor
GIB = 1 << 30
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def check_outbox(config: OutboxConfig) -> Iterator[Finding]:
    directory = Path(config.dir)
    try:
        bad = [journal.name for journal in bad_journals(directory)]
    except OSError as error:
        yield _unreadable("outbox", directory, error)
        return
    yield from _check_permissions("outbox", directory)
    used = sum(file.stat().st_size for file in _files(directory))
    quota = max(0, config.max_bytes - used)
    yield from judge_file_system("outbox", directory, mount_of(directory)[1])
    disk = shutil.disk_usage(directory)
    if disk.free < quota:
        yield warning(
            "outbox",
            f"the disk has {_size(disk.free)} free, and the outbox may still grow by {_size(quota)}",
            why="while SNS is unreachable, the disk gets full before the outbox, and visits are discarded (outbox_io)",
            fix=f"lower outbox.max_bytes to {used + disk.free * 9 // 10} or give {directory} a larger disk",
        )
    yield judge_disk("outbox", directory, disk.free, disk.total)
    if bad:
        yield warning(
            "outbox",
            f"journals that cannot be read were set aside: {', '.join(bad)}",
            why="visits in them are not published",
            fix="keep a copy, look for journal_read_failed in the pixel's log, check the disk; then remove them",
        )
    refused = refused_lines(directory)
    if refused.exists() and refused.stat().st_size:
        yield warning(
            "outbox",
            f"{refused} holds visits that SNS refuses",
            why="they are not in the visit log",
            fix="read why in the pixel's log (span_refused); keep the file, then remove it",
        )
    yield from _check_lock("outbox", publisher_lock(directory), "pixel", "tracker-pixel")


def check_log(config: LogConfig) -> Iterator[Finding]:
    path = Path(config.path)
    if path.is_symlink():
        yield fault(
            "visit log",
            f"{path} is a symbolic link",
            why="storage refuses it: a rotation would move the link and not the file",
            fix=f"set log.path to {path.resolve()}",
        )
        return
    try:
        torn = torn_copies(path)
    except OSError as error:
        yield _unreadable("visit log", path.parent, error)
        return
    yield from _check_permissions("visit log", path.parent)
    yield from judge_file_system("visit log", path.parent, mount_of(path.parent)[1])
    disk = shutil.disk_usage(path.parent)
    finding = judge_disk("visit log", path.parent, disk.free, disk.total)
    yield finding if finding.level is Level.OK else replace(finding, what=finding.what + full_in(disk.free, path))
    if torn:
        yield warning(
            "visit log",
            f"a crash left {', '.join(file.name for file in torn)}",
            why="SQS delivered their visits again, so these are in the log; but the files hold visitors' addresses",
            fix="remove them",
        )
    yield from _check_ledger(ledger_path(path))
    yield from _check_lock("visit log", lock_path(path), "storage", "tracker-storage")


def _check_ledger(ledger: Path) -> Iterator[Finding]:
    if not os.path.lexists(ledger):
        return  # storage has never run here; the check of its lock reports that
    try:
        read_extent(ledger)
    except TrackerError as error:
        yield fault(
            "visit log",
            str(error),
            why="without its ledger storage writes nothing; visits wait in the queue, at most for its retention",
            fix="run the doctor as the service's user; see docs/operations.md, a ledger that cannot be used",
        )


def judge_file_system(subject: str, directory: Path, kind: str) -> Iterator[Finding]:
    """A warning if the files of a file system of this type are in memory."""
    if kind in MEMORY_FILE_SYSTEMS:
        lost = {"outbox": "what SNS has not accepted", "visit log": "the visit log and its ledger"}[subject]
        yield warning(
            subject,
            f"{directory} is on a {kind}: its files are in memory",
            why=f"a reboot loses {lost}",
            fix=f"move it to a directory on a disk: docs/operations.md, moving the {subject.removeprefix('visit ')}",
        )


def judge_disk(subject: str, directory: Path, free: int, total: int) -> Finding:
    """The finding for a disk with `free` of `total` bytes free."""
    what = f"{_size(free)} of {_size(total)} are free on the disk of {directory}"
    if free > total * NEARLY_FULL_SHARE or free > 20 * GIB:
        return ok(subject, what)
    why = {
        "outbox": "on a full disk visits are answered and discarded (outbox_io)",
        "visit log": "on a full disk storage pauses; visits wait in the queue, at most for its retention",
    }[subject]
    level = fault if free < total * FULL_SHARE else warning
    return level(subject, what, why=why, fix="free space on it, or move to a larger disk (docs/operations.md)")


def _unreadable(subject: str, directory: Path, error: OSError) -> Finding:
    if isinstance(error, FileNotFoundError):
        return warning(
            subject,
            f"{directory} does not exist",
            why="the service has never run with this configuration here, or its disk is not mounted",
            fix="run the doctor where the service runs, from its working directory; mount the disk",
        )
    return unknown(
        subject, f"{directory}: {error.strerror}", fix="run the doctor as the service's user: sudo -u tracker"
    )


def _check_permissions(subject: str, directory: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & stat.S_IWOTH:
        yield fault(
            subject,
            f"every user may write to {directory} (mode {mode:04o})",
            why="every user of this machine can remove or replace recorded visits",
            fix=f"chmod 0750 {directory}",
        )
    elif mode & stat.S_IROTH and mode & stat.S_IXOTH:
        yield warning(
            subject,
            f"every user may list {directory} (mode {mode:04o})",
            why="visitors' addresses are personal data; the mode 0640 of the files is then the only protection",
            fix=f"chmod 0750 {directory}",
        )


def _check_lock(subject: str, lock: Path, service: str, unit: str) -> Iterator[Finding]:
    holder = lock_holder(lock)
    if holder is None:
        yield warning(
            subject,
            f"no {service} holds {lock}",
            why=f"no {service} is running on it",
            fix=f"systemctl start {unit}; journalctl -u {unit} says why it ended",
        )
        return
    yield ok(subject, f"locked by {service}, process {holder}")
    files = _open_files_limit(holder)
    if service == "pixel" and files is not None and files < FEWEST_FILES:
        yield warning(
            "limits",
            f"the pixel may open {files} files",
            why="each connection needs one; at the limit new visitors wait",
            fix="LimitNOFILE=65536 in the unit, or ulimit -n 65536",
        )
    backlog = _somaxconn()
    if service == "pixel" and backlog is not None and backlog < BACKLOG:
        yield warning(
            "limits",
            f"the kernel queues at most {backlog} connections that are not accepted yet; the pixel asks for {BACKLOG}",
            why="in a burst of new visitors, connections are refused while the workers start",
            fix=f"sysctl -w net.core.somaxconn={BACKLOG}",
        )


def lock_holder(lock: Path) -> int | None:
    """The process that holds a flock on the file, from /proc/locks. Taking the lock to test it could delay a start."""
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
                continue  # published and removed since the listing
        else:
            yield entry


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
