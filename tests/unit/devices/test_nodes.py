"""Device files: which there are, and whether they open."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lemonade_serve.devices.nodes import Node, read_nodes
from tests.unit.devices.trees import grow


def test_a_machine_without_them_has_none(tmp_path: Path) -> None:
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/card0").touch()
    assert read_nodes(tmp_path) == []


def test_they_are_found_where_the_kernel_puts_them(tmp_path: Path) -> None:
    for name in ("dri/renderD128", "dri/renderD129", "accel/accel0"):
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [(node.path, node.kind, node.error) for node in read_nodes(tmp_path)]
    assert found == [
        ("/dev/accel/accel0", "npu", 0),
        ("/dev/dri/renderD128", "gpu", 0),
        ("/dev/dri/renderD129", "gpu", 0),
    ]


def test_they_say_who_made_them_and_whom_they_are_for(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        {
            "/dev/accel/accel0": "",
            "/sys/class/accel/accel0/device/vendor": "0x1022",
            "/dev/dri/renderD128": "",
            "/sys/class/drm/renderD128/device/vendor": "0x8086",
            "/dev/dri/renderD129": "",
            "/sys/class/drm/renderD129/device/vendor": "0x1af4",
            "/dev/dri/renderD130": "",
        },
    )
    (root / "dev/dri/renderD128").chmod(0o666)
    (root / "dev/dri/renderD129").chmod(0o660)
    nodes = read_nodes(root)
    assert [node.vendor for node in nodes] == ["AMD", "Intel", "0x1af4", ""]
    assert [node.open_to_all for node in nodes[1:3]] == [True, False]


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
def test_a_group_opens_them(makes_device_file: MakeDeviceFile) -> None:
    root = makes_device_file("dev/accel/accel0", gid=992)
    (without,) = as_nobody(root, groups=[])
    (within,) = as_nobody(root, groups=[992])
    assert (without.error, without.gid) == (errno.EACCES, 992)
    assert within.error == 0


def as_nobody(root: Path, groups: list[int]) -> list[Node]:
    """What a process finds that is nobody's, and in these groups."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgroups(groups)
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, msgspec.json.encode(read_nodes(root)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found = msgspec.json.decode(answer.read(), type=list[Node])
    os.waitpid(child, 0)
    return found


MakeDeviceFile = Callable[..., Path]


@pytest.fixture
def makes_device_file() -> Iterator[MakeDeviceFile]:
    """Makes a null device in a root of its own, that all may enter, and returns the root."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def make(path: str, *, gid: int) -> Path:
            node = root / path
            node.parent.mkdir(parents=True)
            for directory in (root, *(root / parent for parent in Path(path).parents)):
                directory.chmod(0o755)
            try:
                os.mknod(node, stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("this sandbox lets nobody make device files")
            os.chown(node, 0, gid)
            node.chmod(0o660)
            return root

        yield make


def test_one_that_does_not_open_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev/accel").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "dev/accel")  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as nobody_listens:
        nobody_listens.bind("accel0")
        (node,) = read_nodes(tmp_path)
    assert node == Node(
        path="/dev/accel/accel0",
        kind="npu",
        gid=os.stat("accel0").st_gid,  # noqa: PTH116
        group=node.group,
        error=errno.ENXIO,
    )


def test_one_that_goes_away_meanwhile_is_none(tmp_path: Path) -> None:
    (tmp_path / "dev/accel").mkdir(parents=True)
    (tmp_path / "dev/accel/accel0").symlink_to("gone")  # listed, and not there
    assert read_nodes(tmp_path) == []
