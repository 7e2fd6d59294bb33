"""The device files of NPUs and GPUs: are they there, may this process open them."""

from __future__ import annotations

import grp
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lemonade_serve.domain.device import Device

PATTERNS = {Device.NPU: "dev/accel/accel*", Device.IGPU: "dev/dri/renderD*"}
"""Where the kernel's drivers put them, below the root."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is the errno of an attempt to open it, 0 when it may be opened."""

    path: str
    device: Device
    gid: int
    group: str | None
    error: int


def read_nodes(root: Path = Path("/")) -> Sequence[Node]:
    """Those that there are. Each is opened and closed again, since a container's rules are seen
    in no other way."""
    return [
        Node(
            path=f"/{path.relative_to(root)}",
            device=device,
            gid=(gid := path.stat().st_gid),
            group=_group(gid),
            error=_open_error(path),
        )
        for device, pattern in PATTERNS.items()
        for path in sorted(root.glob(pattern))
    ]


def _open_error(path: Path) -> int:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 0
    return 0


def _group(gid: int) -> str | None:
    """None in a container that does not know the host's group."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None
