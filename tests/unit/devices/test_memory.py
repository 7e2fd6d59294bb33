"""The memory that may be used: of the machine, or of the tightest group."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemonade_serve.devices.memory import Memory, read_memory
from tests.unit.devices.trees import GIB, HYBRID, V1, V2, grow, machine

V1_NONE = 0x7FFFFFFFFFFFF000


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    root = grow(tmp_path, {"/proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB"})
    assert read_memory(root) == Memory(host_bytes=16 * GIB)
    assert read_memory(root).usable_bytes == 16 * GIB


def test_the_tightest_of_all_ancestors_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/a.slice/b.service", mountinfo=V2)
    group = "/sys/fs/cgroup"
    grow(root, {f"{group}/a.slice/b.service/memory.max": 8 * GIB})
    assert read_memory(root).cgroup_bytes == 8 * GIB
    grow(root, {f"{group}/a.slice/memory.max": 2 * GIB})
    assert read_memory(root).cgroup_bytes == 2 * GIB
    grow(root, {f"{group}/a.slice/b.service/memory.max": GIB})
    assert read_memory(root) == Memory(host_bytes=16 * GIB, cgroup_bytes=GIB)
    assert read_memory(root).usable_bytes == GIB


def test_a_sibling_bounds_nobody_else(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/mine", mountinfo=V2)
    grow(root, {"/sys/fs/cgroup/other/memory.max": GIB, "/sys/fs/cgroup/mine/memory.max": "max"})
    assert read_memory(root).cgroup_bytes is None


def test_a_container_of_version_2_sees_itself_as_the_root(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/", mountinfo=V2)
    grow(root, {"/sys/fs/cgroup/memory.max": 3 * GIB})
    assert read_memory(root).usable_bytes == 3 * GIB


@pytest.mark.parametrize("cgroup", ["/docker/abc", "/../../elsewhere", "/docker/abcdef"])
def test_a_container_may_not_see_where_it_is(tmp_path: Path, cgroup: str) -> None:
    root = machine(tmp_path, cgroup=f"4:memory:{cgroup}", mountinfo=V1, group="/docker/abc")
    grow(root, {"/sys/fs/cgroup/memory/memory.limit_in_bytes": 5 * GIB})
    assert read_memory(root).usable_bytes == 5 * GIB


def test_version_1_has_ancestors_too(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="5:cpu:/\n4:memory:/a/b\n0::/", mountinfo=HYBRID)
    group = "/sys/fs/cgroup/memory"
    grow(root, {f"{group}/memory.limit_in_bytes": V1_NONE})
    grow(root, {f"{group}/a/b/memory.limit_in_bytes": V1_NONE})
    assert read_memory(root).cgroup_bytes is None
    grow(root, {f"{group}/a/memory.limit_in_bytes": 4 * GIB})
    assert read_memory(root).cgroup_bytes == 4 * GIB


def test_version_1_tells_of_ancestors_that_are_out_of_sight(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="4:memory:/docker/abc", mountinfo=V1, group="/docker/abc")
    stat = f"cache 7\nhierarchical_memory_limit {2 * GIB}\nhierarchical_memsw_limit 1"
    grow(root, {"/sys/fs/cgroup/memory/memory.stat": stat})
    grow(root, {"/sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NONE})
    assert read_memory(root).usable_bytes == 2 * GIB


def test_version_1_and_2_may_both_bound(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="4:memory:/a\n0::/b", mountinfo=HYBRID)
    grow(root, {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": 4 * GIB})
    grow(root, {"/sys/fs/cgroup/unified/b/memory.max": 3 * GIB})
    assert read_memory(root).usable_bytes == 3 * GIB


def test_a_limit_over_what_the_machine_has_bounds_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/", mountinfo=V2)
    grow(root, {"/sys/fs/cgroup/memory.max": 32 * GIB})
    assert read_memory(root).usable_bytes == 16 * GIB


def test_a_mount_may_have_a_blank_in_its_name(tmp_path: Path) -> None:
    mount = r"35 24 0:30 / /sys/fs/c\040group rw - cgroup2 cgroup2 rw"
    root = machine(tmp_path, cgroup="0::/x:y", mountinfo=mount)
    grow(root, {"/sys/fs/c group/x:y/memory.max": GIB})
    assert read_memory(root).usable_bytes == GIB


def test_this_machine_has_some() -> None:
    assert 0 < read_memory().usable_bytes <= read_memory().host_bytes
