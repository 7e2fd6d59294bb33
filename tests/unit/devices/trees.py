"""A machine's `/proc` and `/sys`, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {group} /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {group} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
V2 = "35 24 0:30 {group} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
GIB = 2**30


def grow(root: Path, files: Mapping[str, object]) -> Path:
    """Files by their path under `root`; what they hold ends in a line's end, as the kernel's do."""
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}".rstrip("\n") + "\n")
    return root


def machine(root: Path, *, cgroup: str, mountinfo: str, group: str = "/") -> Path:
    """16 GiB; `cgroup` and `mountinfo` are what the process's files say, the mounts' root is
    `group`."""
    return grow(
        root,
        {
            "/proc/meminfo": f"MemTotal:       {16 * GIB // 1024} kB\nMemFree:        1 kB",
            "/proc/self/cgroup": cgroup,
            "/proc/self/mountinfo": mountinfo.format(group=group),
        },
    )
