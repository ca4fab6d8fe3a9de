"""How many CPUs a process may use: the strictest quota of its control groups and their parents."""

import pytest

from tracker.cpus import cpu_quota, usable_cpus

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
