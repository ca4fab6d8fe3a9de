"""Workers go before main where they share a CPU."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tracker.cpus import NICE

from .lone_pixel import Pixel
from .wire import wait_for


def nice_values(pid: int) -> dict[int, int]:
    """The nice value of each thread of a process, by its number. The first thread has the number of the process."""
    return {int(task): os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has one priority")
def test_main_has_a_lower_priority_than_each_worker_also_than_one_that_replaces_another(tmp_path: Path) -> None:
    usual, cpus = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        pixel = Pixel(tmp_path)
    finally:
        os.sched_setaffinity(0, cpus)
    with pixel:
        wait_for(lambda: nice_values(pixel.pid)[pixel.pid] == usual + NICE[1], "main's event loop behind the workers")
        wait_for(lambda: len(pixel.workers()) == 1, "a worker")
        (first,) = pixel.workers()
        assert set(nice_values(first).values()) == {usual}
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: pixel.workers() not in ([first], []), "another worker")
        (second,) = pixel.workers()
        assert set(nice_values(second).values()) == {usual}
        pixel.wait_alive(lambda: pixel.metric("tracker_pixel_workers") == 1, "it answers")
