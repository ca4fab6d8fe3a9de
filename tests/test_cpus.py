"""How many CPUs a process may use: the strictest quota of its control groups. And how it leaves its CPU to others."""

import os
import subprocess
import sys

import pytest

from tracker.cpus import NICE, Pauses, cpu_quota, usable_cpus

V2 = "0::/system.slice/tracker.service\n"
V1 = "5:memory:/a\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("", {}, None),
        ("0::/\n", {}, None),
        (V2, {"/sys/fs/cgroup/system.slice/tracker.service/cpu.max": "max 100000\n"}, None),
        (V2, {"/sys/fs/cgroup/system.slice/tracker.service/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"/sys/fs/cgroup/system.slice/cpu.max": "50000 100000\n"}, 0.5),
        (
            V2,
            {
                "/sys/fs/cgroup/system.slice/tracker.service/cpu.max": "400000 100000\n",
                "/sys/fs/cgroup/system.slice/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            3.0,
        ),
        ("0::/\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),  # a container with a namespace of its own
        ("0::/../../other\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            "0::/docker/0123\n",
            {"/sys/fs/cgroup/cpu.max": "200000 100000\n"},
            2.0,
        ),  # a container that sees the host's path
        ("1:cpu:/\n0::/a\n", {"/sys/fs/cgroup/unified/a/cpu.max": "100000 100000\n"}, 1.0),
        (
            V1,
            {
                "/sys/fs/cgroup/cpu,cpuacct/docker/0123/cpu.cfs_quota_us": "250000\n",
                "/sys/fs/cgroup/cpu,cpuacct/docker/0123/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            V1,
            {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (
            V1,
            {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        (V2, {"/sys/fs/cgroup/cpu.max": "nonsense"}, None),
        (V2, {"/sys/fs/cgroup/cpu.max": "100000 0"}, None),
        ("nonsense\n\n", {}, None),
    ],
)
def test_the_strictest_quota_of_the_groups_and_their_parents_counts(
    membership: str, files: dict[str, str], cpus: float | None
) -> None:
    assert cpu_quota(membership, files.get) == cpus


@pytest.mark.parametrize(
    ("quota", "affinity", "cpus"), [(None, 4, 4), (0.1, 4, 1), (1.0, 4, 1), (1.01, 4, 2), (2.5, 4, 3), (64.0, 4, 4)]
)
def test_a_fraction_of_a_cpu_is_rounded_up_and_the_affinity_is_the_most(
    quota: float | None, affinity: int, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.cpus.cpu_quota", lambda membership, read: quota)
    monkeypatch.setattr("tracker.cpus.os.sched_getaffinity", lambda pid: range(affinity), raising=False)
    assert usable_cpus() == cpus


class Core:
    """A CPU whose clock moves on when somebody works or pauses. A pause lasts `pause` seconds."""

    def __init__(self, pause: float) -> None:
        self.now = 0.0
        self.paused = 0.0
        self._pause = pause
        self.pauses = Pauses(lambda: self.now, lambda seconds: self._sleep())

    def _sleep(self) -> None:
        self.paused += self._pause
        self.now += self._pause

    def work(self, units: int, seconds: float) -> None:
        for _ in range(units):
            self.now += seconds
            self.pauses.let_others_run()


def test_others_may_run_after_each_unit_of_work() -> None:
    core = Core(pause=0.0001)
    core.work(100, 0.0005)
    assert core.paused == pytest.approx(100 * 0.0001)


def test_pauses_take_at_most_a_fifth_of_the_time_when_others_use_the_cpu_for_long() -> None:
    core = Core(pause=0.004)
    core.work(1_000, 0.0005)
    assert 0.15 * core.now < core.paused <= 0.21 * core.now


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_main_gets_a_fifth_of_the_cpu_time_when_all_workers_are_busy(workers: int) -> None:
    weight = 1.25 ** -NICE.get(workers, 0)  # sched(7): each step of the nice value changes the weight by a fourth
    assert weight / (workers + weight) >= 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has one priority")
@pytest.mark.parametrize(("workers", "added"), [(1, NICE[1]), (2, NICE[2]), (4, 0), (64, 0)])
def test_main_goes_behind_its_workers_whatever_priority_it_was_started_with(workers: int, added: int) -> None:
    program = f"""
import os
from tracker.cpus import run_behind
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
os.nice(2)
run_behind({workers})
print(os.nice(0))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == min(19, os.nice(0) + 2 + added)
