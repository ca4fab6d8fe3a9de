"""How many CPUs this process may use: its affinity, and the CPU quota of its control group."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = "/sys/fs/cgroup"


def usable_cpus() -> int:
    """CPUs of this process's affinity, or fewer where a control group limits its CPU time; at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(_read("/proc/self/cgroup") or "", _read)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cpu_quota(membership: str, read: Callable[[str], str | None]) -> float | None:
    """The number of CPUs that a process's groups allow, the smallest limit of them and their parents. None: no limit.

    `membership` is the content of /proc/self/cgroup (cgroups(7)). `read` returns the content of a file, or None if it
    does not exist. In a container the path of the group is often the one that it has on the host, while the group
    itself is mounted as the root. So a path that does not exist is skipped, and the root is always read.
    """
    quotas: list[float] = []
    for line in membership.splitlines():
        _, _, group = line.partition(":")
        controllers, _, path = group.partition(":")
        for folder in _folders(controllers, path):
            limit = _limit_v1(folder, read) if controllers else _limit_v2(folder, read)
            if limit is not None:
                quotas.append(limit)
    return min(quotas, default=None)


def _folders(controllers: str, path: str) -> Iterator[str]:
    """The directories where the files of a group and of its parents may be."""
    if not controllers:  # version 2
        mounts = [_CGROUPS, f"{_CGROUPS}/unified"]
    elif "cpu" in controllers.split(","):
        mounts = [f"{_CGROUPS}/{controllers}", f"{_CGROUPS}/cpu"]
    else:
        return
    group = PurePosixPath(path)
    for mount in dict.fromkeys(mounts):
        for ancestor in (group, *group.parents):
            yield f"{mount}{ancestor}".rstrip("/")


def _limit_v2(folder: str, read: Callable[[str], str | None]) -> float | None:
    quota, _, period = (read(f"{folder}/cpu.max") or "").strip().partition(" ")
    return _cpus(quota, period)


def _limit_v1(folder: str, read: Callable[[str], str | None]) -> float | None:
    return _cpus(*((read(f"{folder}/cpu.cfs_{name}_us") or "").strip() for name in ("quota", "period")))


def _cpus(quota: str, period: str) -> float | None:
    """The number of CPUs, from two values in microseconds. None for no limit: "max", -1, or no file."""
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return None
    return int(quota) / int(period)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return None
