"""Device files: which there are, and whether they open."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from lemonade_serve.devices.nodes import Node, read_nodes
from lemonade_serve.domain.device import Device


def test_a_machine_without_them_has_none(tmp_path: Path) -> None:
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/card0").touch()
    assert read_nodes(tmp_path) == []


def test_they_are_found_where_the_kernel_puts_them(tmp_path: Path) -> None:
    for name in ("dri/renderD128", "dri/renderD129", "accel/accel0"):
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [(node.path, node.device, node.error) for node in read_nodes(tmp_path)]
    assert found == [
        ("/dev/accel/accel0", Device.NPU, 0),
        ("/dev/dri/renderD128", Device.IGPU, 0),
        ("/dev/dri/renderD129", Device.IGPU, 0),
    ]


def test_one_that_does_not_open_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev/accel").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "dev/accel")  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as nobody_listens:
        nobody_listens.bind("accel0")
        (node,) = read_nodes(tmp_path)
    assert node == Node(
        path="/dev/accel/accel0",
        device=Device.NPU,
        gid=os.stat("accel0").st_gid,  # noqa: PTH116
        group=node.group,
        error=errno.ENXIO,
    )
