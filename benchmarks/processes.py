"""Processes for a benchmark: pinned to cores, killed at the end, their CPU time and memory read from /proc."""

import contextlib
import http.client
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.launched import ROOT, Launched
from tests.system import wire

DEADLINE = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
SERVER = {CORES[0]}
CLIENT = {CORES[-1]}
ALL = set(CORES)


class BenchmarkFailed(Exception):
    """What was to be measured did not happen."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = DEADLINE, pause: float = 0.02) -> None:
    """Return as soon as `condition` holds; an OSError out of it means not yet. Raises BenchmarkFailed."""

    def holds() -> object:
        with contextlib.suppress(OSError):
            return condition()
        return False

    try:
        wire.wait_for(holds, what, seconds, pause)
    except AssertionError as error:
        raise BenchmarkFailed(str(error)) from error


def get(port: int, path: str, host: str = "127.0.0.1") -> bytes:
    """The body of a GET; raises OSError when there is no answer."""
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def metric(text: bytes, name: str) -> float:
    """The sum of a metric's samples in the text of `/metrics`."""
    total = 0.0
    for line in text.decode().splitlines():
        sample, _, value = line.rpartition(" ")
        if sample.partition("{")[0] in (name, f"{name}_total"):
            total += float(value)
    return total


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far, of these processes and of their children that have ended."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / TICKS
    return total


class Process(Launched):
    """A process and its children, pinned to `cores`."""

    failure = BenchmarkFailed

    def __init__(self, name: str, command: Sequence[str], *, home: Path, cores: set[int]) -> None:
        os.sched_setaffinity(0, cores)  # of this thread; the process and each of its threads inherit it
        try:
            super().__init__(command, output_file=home / f"{name}.out", home=home, cwd=ROOT)
        finally:
            os.sched_setaffinity(0, ALL)

    def wait_until(
        self, condition: Callable[[], object], what: str, seconds: float = DEADLINE, pause: float = 0.02
    ) -> None:
        """`wait_for`, but fail at once when the process ends."""

        def check() -> object:
            self.check_running()
            return condition()

        wait_for(check, f"{self.name}: {what}", seconds, pause)

    def family(self) -> list[int]:
        """The process and all its descendants."""
        return family(self.pid)

    def cpu_seconds(self, *, alone: bool = False) -> float:
        """User and system time so far, of the family with its children that have ended, or of this process alone."""
        return cpu_seconds([self.pid] if alone else self.family())

    def memory(self, pid: int | None = None, *, peak: bool = False) -> int:
        """Resident bytes of one process of the family, now or at its peak."""
        wanted = "VmHWM:" if peak else "VmRSS:"
        for line in Path(f"/proc/{pid or self.pid}/status").read_text().splitlines():
            if line.startswith(wanted):
                return int(line.split()[1]) * 1024
        raise BenchmarkFailed(f"{self.name} has ended")
