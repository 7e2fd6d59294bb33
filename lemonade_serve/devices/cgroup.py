"""The control groups that bound this process, version 1 and 2: where their files lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")


class _Mount(NamedTuple):
    hierarchy: str | None
    """A controller of version 1, or None for version 2."""
    root: PurePosixPath
    """Which group is seen at `at`: a container may not see its ancestors."""
    at: str


def groups_v2(root: Path) -> Sequence[Path]:
    """The directories of this process's own group and of every ancestor, the nearest first;
    none where there is no version 2. `root` is `/`, or a copy of it for tests."""
    return _groups(root, None)


def groups_v1(root: Path, controller: str) -> Sequence[Path]:
    """The same in version 1, of `memory` or `cpu`."""
    return _groups(root, controller)


def lines(file: Path) -> list[str]:
    """Of a file of the kernel's; none when it is not there."""
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _groups(root: Path, hierarchy: str | None) -> Sequence[Path]:
    own = next((path for h, path in _memberships(root) if h == hierarchy), None)
    mount = next((mount for mount in _mounts(root) if mount.hierarchy == hierarchy), None)
    if own is None or mount is None:
        return []
    top = root / mount.at.lstrip("/")
    # a group that lies outside of what is mounted here: what is mounted is all that can be seen
    inside = own.relative_to(mount.root) if own.is_relative_to(mount.root) else PurePosixPath()
    return [top / inside, *(top / parent for parent in inside.parents)]


def _memberships(root: Path) -> Iterator[tuple[str | None, PurePosixPath]]:
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for hierarchy in controllers.split(",") if controllers else [None]:
            yield hierarchy, PurePosixPath(path)


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        fields, (filesystem, *_, options) = mount.split(), kind.split()
        group, at = PurePosixPath(_plain(fields[3])), _plain(fields[4])
        if filesystem == "cgroup2":
            yield _Mount(None, group, at)
        elif filesystem == "cgroup":
            for hierarchy in options.split(","):
                yield _Mount(hierarchy, group, at)


def _plain(path: str) -> str:
    """Blanks and the like are octal numbers in mountinfo."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), path)
