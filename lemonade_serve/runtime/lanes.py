"""Which workers take turns at computing: those of one lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lemonade_serve.domain.device import Device


class Lanes:
    """There are as many lanes as workers can compute at once, each with `threads`, on so many
    CPUs; what computes apart from the CPUs is a lane by itself, one for each such device."""

    def __init__(self, *, cpus: int, threads: int, apart: Iterable[Device] = ()) -> None:
        self._shared = range(max(1, cpus // threads))
        self._apart = {device: lane for lane, device in enumerate(apart, len(self._shared))}
        self._workers: Counter[int] = Counter()

    def enter(self, device: Device) -> int:
        """A lane for one more worker: of those that it may have, one with the fewest workers."""
        lane = self._apart.get(device)
        if lane is None:
            lane = min(self._shared, key=self._workers.__getitem__)
        self._workers[lane] += 1
        return lane

    def leave(self, lane: int) -> None:
        """A worker of the lane is gone."""
        self._workers[lane] -= 1
