"""Metrics of a service's processes: CPU time, memory, open descriptors, and the time of the start.

The values are read from /proc at every scrape. Where there is no /proc (macOS) only the values of the standard library
are given.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PROC = Path("/proc")
_PAGE_BYTES = resource.getpagesize()
_ROLE = ("role",)
_STARTED = time.time()


class Processes(Collector):
    """The values of this process, role `main`, and the sums over its worker processes, role `worker`."""

    def __init__(self) -> None:
        self.workers: Callable[[], Iterable[int]] = tuple  # process ids of the running ones

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterator[Metric]:
        cpu, memory, descriptors, started = families = self._families()
        for role, pids in (("main", [os.getpid()]), ("worker", list(self.workers()))):
            cpu.add_metric([role], _cpu_seconds(role, pids))
            if _PROC.is_dir():
                memory.add_metric([role], sum(map(_resident_bytes, pids)))
                descriptors.add_metric([role], sum(map(_open_descriptors, pids)))
        started.add_metric([], _STARTED)
        yield from families

    def _families(self) -> tuple[CounterMetricFamily, GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily(
                "tracker_process_cpu_seconds", "CPU time, with that of workers which have ended.", labels=_ROLE
            ),
            GaugeMetricFamily("tracker_process_resident_memory_bytes", "Memory in use.", labels=_ROLE),
            GaugeMetricFamily("tracker_process_open_fds", "Open file descriptors.", labels=_ROLE),
            GaugeMetricFamily("tracker_process_start_time_seconds", "When main was started, since 1970.", labels=()),
        )


def _cpu_seconds(role: str, pids: Iterable[int]) -> float:
    times = os.times()
    if role == "main":
        return times.user + times.system
    # The system keeps the sum of the workers that have ended and were waited for. The sum is made of whole clock ticks:
    # a sum of fractions could be smaller by a rounding error after a worker has ended, and a counter must never fall.
    ticks = os.sysconf("SC_CLK_TCK")
    ended = round((times.children_user + times.children_system) * ticks)
    return (ended + sum(map(_running_cpu_ticks, pids))) / ticks


def _running_cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third one (the state) on, see proc(5). Empty if the process has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def waits_for_disk(pid: int) -> bool:
    """Whether a process is in uninterruptible sleep: in a system call that waits for a disk. Always False on macOS."""
    return _stat(pid)[:1] == ["D"]


def _resident_bytes(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0  # it has just ended


def _open_descriptors(pid: int) -> int:
    try:
        return len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return 0
