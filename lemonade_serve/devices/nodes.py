"""The device files of NPUs and GPUs: are they there, may this process open them."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

PATTERNS = {"npu": "dev/accel/accel*", "gpu": "dev/dri/renderD*"}
"""Where the kernel's drivers put them, by the kind of hardware, below the root."""
_CLASSES = {"npu": "sys/class/accel", "gpu": "sys/class/drm"}
_ALL = stat.S_IROTH | stat.S_IWOTH
_VENDORS = {"0x8086": "Intel", "0x1002": "AMD", "0x1022": "AMD", "0x10de": "NVIDIA"}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is the errno of an attempt to open it, 0 when it may be opened; `vendor` a name, a
    number without one, or empty where the kernel does not say. `open_to_all`: whatever groups."""

    path: str
    kind: str
    gid: int
    group: str | None
    error: int
    vendor: str = ""
    open_to_all: bool = False


def read_nodes(root: Path = Path("/")) -> Sequence[Node]:
    """Those that there are. Each is opened and closed again, since a container's rules are seen
    in no other way."""
    return [
        node
        for kind, pattern in PATTERNS.items()
        for path in sorted(root.glob(pattern))
        if (node := _read(root, kind, path))
    ]


def _read(root: Path, kind: str, path: Path) -> Node | None:
    """None if its driver has just taken it away."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return Node(
        path=f"/{path.relative_to(root)}",
        kind=kind,
        gid=status.st_gid,
        group=_group(status.st_gid),
        open_to_all=status.st_mode & _ALL == _ALL,
        error=_open_error(path),
        vendor=_vendor(root / _CLASSES[kind] / path.name / "device/vendor"),
    )


def _open_error(path: Path) -> int:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 0
    return 0


def _vendor(file: Path) -> str:
    try:
        number = file.read_text().strip()
    except OSError:  # no PCI device
        return ""
    return _VENDORS.get(number, number)


def _group(gid: int) -> str | None:
    """None in a container that does not know the host's group."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None
