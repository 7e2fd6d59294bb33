"""The CPUs that may be used: where threads may run, and for how much of the time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lemonade_serve.devices.cpus import Cpus, read_cpus
from tests.unit.devices.trees import HYBRID, V2, grow, machine


def four(_: int) -> set[int]:
    return {0, 1, 6, 7}


def test_without_groups_it_is_the_affinity(tmp_path: Path) -> None:
    assert read_cpus(tmp_path, four) == Cpus(affinity=4)
    assert read_cpus(tmp_path, four).usable == 4


@pytest.mark.parametrize(
    ("quota", "usable"),
    [
        ("max 100000", 4),
        ("300000 100000", 3),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("20000 10000", 2),
    ],
)
def test_a_quota_is_rounded_down_to_whole_cpus(tmp_path: Path, quota: str, usable: int) -> None:
    root = machine(tmp_path, cgroup="0::/a/b", mountinfo=V2)
    grow(root, {"/sys/fs/cgroup/a/cpu.max": quota, "/sys/fs/cgroup/a/b/cpu.max": "max 100000"})
    assert read_cpus(root, four).usable == usable


@pytest.mark.parametrize(("quota", "expected"), [(-1, None), (150000, 1.5)])
def test_version_1_says_it_in_two_files(tmp_path: Path, quota: int, expected: float | None) -> None:
    root = machine(tmp_path, cgroup="2:cpu,cpuacct:/a\n0::/", mountinfo=HYBRID)
    group = "/sys/fs/cgroup/cpu,cpuacct/a"
    grow(root, {f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": 100000})
    assert read_cpus(root, four) == Cpus(affinity=4, quota=expected)


def test_this_machine_has_one_at_least() -> None:
    assert 1 <= read_cpus().usable <= len(os.sched_getaffinity(0))
