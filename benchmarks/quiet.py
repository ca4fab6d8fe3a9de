"""Measures how quiet the machine is during a measurement: what else took CPU time, from /proc.

1. /proc/stat has the CPU time of all processes. What this process and its descendants took is subtracted.
2. Steal is the time for which the host of a virtual machine gave the core to somebody else.
3. A process that has ended is no descendant any more, unless its parent has waited for it. So this process becomes the
   parent of all orphans below it (a "subreaper"), and does not wait for them.
"""

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.processes import CORES, TICKS, cpu_seconds, family

MOST_OTHERS = 0.03
MOST_STOLEN = 0.01
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Noise:
    """Shares of the time of all cores, from 0 to 1, and the load average of a minute when the measurement began."""

    others: float
    stolen: float
    load: float

    @property
    def is_quiet(self) -> bool:
        return self.others <= MOST_OTHERS and self.stolen <= MOST_STOLEN


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that their CPU time is known."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Watch:
    """A context. `noise` is how quiet the machine was meanwhile."""

    noise: Noise

    def __enter__(self) -> Self:
        self._load = os.getloadavg()[0]
        self._before = _sample()
        return self

    def __exit__(self, *error: object) -> None:
        others, stolen, seconds = (after - before for after, before in zip(_sample(), self._before, strict=True))
        whole = max(seconds, 1e-3) * len(CORES)
        self.noise = Noise(max(0.0, others) / whole, stolen / whole, self._load)


def _sample() -> tuple[float, float, float]:
    """CPU time of others, stolen time and the clock, in seconds."""
    user, nice, system, _, _, hard, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    # Interrupts: a kernel that measures them (then `hard` is not 0) leaves them out of the time of processes. Another
    # kernel counts the soft ones twice, here and as system time of the process that ran.
    busy = user + nice + system + (0 if hard else soft)
    return busy / TICKS - cpu_seconds(family(os.getpid())), steal / TICKS, time.monotonic()
