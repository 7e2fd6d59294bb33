"""How much memory this process and its children may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lemonade_serve.devices.cgroup import groups_v1, groups_v2, lines

_UNLIMITED = 2**60
"""Version 1 says so with a number that no machine has."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes: of the machine, and of the tightest control group if one is tighter."""

    host_bytes: int
    cgroup_bytes: int | None = None

    @property
    def usable_bytes(self) -> int:
        return min(self.host_bytes, self.cgroup_bytes or self.host_bytes)


def read_memory(root: Path = Path("/")) -> Memory:
    """As it is now. `root` is where `proc` and `sys` are. Raises OSError without a /proc."""
    meminfo = (root / "proc/meminfo").read_text()
    host = next(line for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    limits = [limit for limit in _limits(root) if limit < _UNLIMITED]
    return Memory(host_bytes=int(host.split()[1]) * 1024, cgroup_bytes=min(limits, default=None))


def _limits(root: Path) -> Iterator[int]:
    for group in groups_v2(root):
        yield from (int(line) for line in lines(group / "memory.max") if line != "max")
    for group in groups_v1(root, "memory"):
        yield from map(int, lines(group / "memory.limit_in_bytes"))
        # counts the ancestors that a container does not see
        for line in lines(group / "memory.stat"):
            name, _, value = line.partition(" ")
            if name == "hierarchical_memory_limit":
                yield int(value)
