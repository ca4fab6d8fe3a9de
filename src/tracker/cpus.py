"""The CPUs that this process may use, and how main leaves them to the workers; see docs/adr/0046.

`usable_cpus` is their number: the affinity of the process, and the CPU quota of its control group.

Where main and a worker share a CPU, answers would wait for milliseconds while main publishes. Therefore:

1. Main has a lower priority than the workers (`run_behind`), so a worker that has requests is chosen before it.
2. Main's long work consists of units of about half a millisecond, with a pause between them (`let_others_run`): the
   scheduler of Linux takes the CPU from a thread that computes only after some milliseconds, whatever its priority.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = "/sys/fs/cgroup"

_PAUSE_SECONDS = 0.00005  # the system makes about 0.1 milliseconds of it
_WORK_PER_PAUSE = 4  # after a pause, there is no other one for this many times as long as it lasted


# Added to the nice value of main, by the number of workers or CPUs, whichever is greater. A thread's weight is 1 for 0,
# and for each further one a fifth less. With these, main gets a fifth of the CPU time of the pixel where all CPUs are
# busy. It needs less for publishing what so many workers record: m / c of docs/capacity.md. From four workers on, equal
# priorities give it no more than that.
NICE = {1: 5, 2: 3, 3: 1}


def run_behind(workers: int) -> None:
    """Lower the priority of the calling thread, and of the threads that it starts from now on. Linux only.

    Elsewhere a process has one priority, and its workers would inherit it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.nice(NICE.get(max(workers, usable_cpus()), 0))


class Pauses:
    """Lets other processes have the CPU between two units of work. All threads of this process share one object.

    When there is no idle CPU at all, a pause lasts until the scheduler takes the CPU away from others, several
    milliseconds. Pauses are then so rare that they take at most a fifth of the time, and the work is not starved.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0  # no pause before this time

    def let_others_run(self) -> None:
        """Pause for about 0.1 milliseconds, so that another thread that waits for this CPU runs now.

        sched_yield(2) is no replacement: what it costs the caller depends on the version of the kernel.
        """
        began = self._clock()
        if began >= self._next:
            self._sleep(_PAUSE_SECONDS)
            ended = self._clock()
            self._next = ended + _WORK_PER_PAUSE * (ended - began)


let_others_run = Pauses().let_others_run


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
