"""How many CPUs this process and its children may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from lemonade_serve.devices.cgroup import groups_v1, groups_v2, lines


class Cpus(msgspec.Struct, frozen=True, kw_only=True):
    """`quota`: of so many CPUs the control groups allow the time; None when they do not say."""

    affinity: int
    quota: float | None = None

    @property
    def usable(self) -> int:
        """Threads that may compute at the same time, at least 1. A quota is rounded down: with
        more threads than it allows all of them stand still for a part of every period."""
        return max(1, min(self.affinity, int(self.quota or self.affinity)))


def read_cpus(
    root: Path = Path("/"), affinity: Callable[[int], Collection[int]] = os.sched_getaffinity
) -> Cpus:
    """As it is now. `root` is where `proc` and `sys` are."""
    return Cpus(affinity=len(affinity(0)), quota=min(_quotas(root), default=None))


def _quotas(root: Path) -> Iterator[float]:
    for group in groups_v2(root):
        for line in lines(group / "cpu.max"):
            yield from _quota(*line.split())
    for group in groups_v1(root, "cpu"):
        quota, period = lines(group / "cpu.cfs_quota_us"), lines(group / "cpu.cfs_period_us")
        if quota and period:
            yield from _quota(quota[0], period[0])


def _quota(quota_us: str, period_us: str) -> list[float]:
    """Version 2 says `max` where there is none, version 1 says -1."""
    return [] if quota_us in ("max", "-1") else [int(quota_us) / int(period_us)]
