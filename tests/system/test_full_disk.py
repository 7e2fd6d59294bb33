"""Disks that are full, or fill up while something is made on them: real ones, of a few megabytes.

Nothing of a checkpoint is left then but what is whole, the error says which disk it was, and when
there is room again the same command goes well.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.test_pull import NAME, Machine
from tests.daemon import Daemon, eventually
from tests.hub import Fault, Hub

pytestmark = pytest.mark.system

MIB = 1 << 20
_PAGE = resource.getpagesize()
LARGE = random.Random(12).randbytes(4 * MIB)  # noqa: S311, no secret
FULL = "is full"


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "somebody-elses"

    def fill(self, but: int = 0) -> None:
        """To the last byte, but for so many."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(MIB)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
            file.truncate(max(0, file.tell() - but))

    def empty(self) -> None:
        self._filler.unlink()


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Makes a disk of so many bytes."""
    if os.geteuid():
        pytest.skip("a disk of its own needs root")
    with ExitStack() as mounted:

        def make(size: int, name: str = "disk") -> Disk:
            path = tmp_path / name
            path.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "lemonade-test", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this machine does not let us mount a tmpfs: {done.stderr.strip()}")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(path)], check=True)
            return Disk(path)

        yield make


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def put_hub_cache_on(machine: Machine, disk: Disk) -> None:
    machine.home = disk.path / "home"
    machine.environment["HF_HOME"] = str(machine.home)


def put_checkpoints_on(machine: Machine, disk: Disk) -> None:
    machine.cache = disk.path / "cache"
    machine.environment["LEMONADE_CACHE_DIR"] = str(machine.cache)


def held(machine: Machine) -> threading.Event:
    """The first large file stops in its middle, until this is set."""
    released = threading.Event()
    small = [path for path in machine.hub.repositories[NAME].files if path != "model.onnx.data"]
    machine.environment["LEMONADE_HUB__FILES_AT_ONCE"] = "1"
    files = machine.hub.repositories[NAME].files
    files["model.onnx.data"] = files.pop("model.onnx.data")  # the last one
    machine.hub.faults = [*(Fault() for _ in small), Fault(cut_after=MIB, until=released)]
    return released


def ended(process: subprocess.Popen[str]) -> str:
    """What a command complains of that fails."""
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 1, complaint
    assert "Traceback" not in complaint
    return complaint


def test_the_hubs_cache_fills_up_during_a_pull(
    machine: Machine, make_disk: Callable[..., Disk], tiny_files: dict[str, bytes]
) -> None:
    disk = make_disk(8 * MIB)
    put_hub_cache_on(machine, disk)
    machine.hub.add(NAME, {**tiny_files, "model.onnx.data": LARGE})
    released = held(machine)
    process = machine.start("pull", NAME)
    assert machine.hub.sent.acquire(timeout=60)
    disk.fill()
    released.set()
    complaint = ended(process)
    assert f"the disk of {machine.home / 'hub'} {FULL}" in complaint
    assert machine.left() == []
    assert not list(machine.home.rglob("*.incomplete"))
    disk.empty()
    assert machine.pulled(NAME)["new"] is True


def test_the_disk_of_the_checkpoints_fills_up_during_a_pull(
    machine: Machine, make_disk: Callable[..., Disk], tiny_files: dict[str, bytes]
) -> None:
    disk = make_disk(8 * MIB)
    put_checkpoints_on(machine, disk)
    machine.hub.add(NAME, {**tiny_files, "model.onnx.data": LARGE})
    released = held(machine)
    process = machine.start("pull", NAME)
    assert machine.hub.sent.acquire(timeout=60)
    disk.fill(but=2 * MIB)
    released.set()
    assert f"the disk of {machine.cache} {FULL}" in ended(process)
    assert machine.left() == []
    disk.empty()
    asked = len(machine.hub.downloads())
    assert machine.pulled(NAME)["new"] is True
    assert len(machine.hub.downloads()) == asked  # what came is whole, and of use


@pytest.mark.parametrize("both", [False, True], ids=["the hub's cache", "everything"])
def test_however_little_is_lacking_a_pull_leaves_nothing_half_made(
    machine: Machine,
    make_disk: Callable[..., Disk],
    tiny_files: dict[str, bytes],
    both: bool,
) -> None:
    """There is room for a page more each time, from none to enough. Beforehand a pull checks only
    what its files need, and not what names, links and half pages do."""
    disk = make_disk(8 * MIB)
    put_hub_cache_on(machine, disk)
    if both:
        put_checkpoints_on(machine, disk)
    machine.hub.add(NAME, tiny_files)
    size = sum(map(len, tiny_files.values()))
    checked = [0, _PAGE, size - size % _PAGE]
    pages = itertools.count(size + _PAGE - size % _PAGE, _PAGE)
    begun = 0
    for room in itertools.chain(checked, pages):
        disk.fill(but=room)
        begun += room > size
        code, _, complaint = machine.pull(NAME)
        assert "Traceback" not in complaint
        if code == 0:
            break
        assert FULL in complaint or "min_free_bytes" in complaint, complaint
        assert not [path for path in machine.cache.rglob("*") if path.is_file()]
        assert not list(machine.home.rglob("*.incomplete"))
        for path in (machine.home, machine.cache):
            shutil.rmtree(path, ignore_errors=True)
        disk.empty()
    assert begun > 1


def filled_while_importing(process: subprocess.Popen[Any], disk: Disk, cache: Path) -> None:
    """Fill the disk when a part of the weights is written."""

    def writes() -> bool:
        return any(p.stat().st_size > 8 * MIB for p in cache.glob(".staging-*/model.onnx.data"))

    eventually(writes)
    jobs = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "lemonade_serve.importers" in child.cmdline()
    ]
    for job in jobs:
        job.suspend()
    disk.fill()
    for job in jobs:
        job.resume()
    assert jobs


def test_the_disk_fills_up_during_an_import(
    make_disk: Callable[..., Disk], smollm2_gguf: Path, machine: Machine
) -> None:
    disk = make_disk(400 * MIB)
    put_checkpoints_on(machine, disk)
    command = [sys.executable, "-m", "lemonade_serve", "import", str(smollm2_gguf)]
    process = subprocess.Popen(
        command, env=machine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    filled_while_importing(process, disk, machine.cache)
    assert f"the disk of {machine.cache} {FULL}" in ended(process)
    assert machine.left() == []
    disk.empty()
    subprocess.run(command, env=machine.environment, check=True, capture_output=True)


def test_an_import_that_cannot_fit_is_not_begun(
    make_disk: Callable[..., Disk], smollm2_gguf: Path, machine: Machine
) -> None:
    disk = make_disk(40 * MIB)
    put_checkpoints_on(machine, disk)
    command = [sys.executable, "-m", "lemonade_serve", "import", str(smollm2_gguf)]
    process = subprocess.Popen(
        command, env=machine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert str(machine.cache) in ended(process)
    assert machine.left() == []


def test_the_disk_fills_up_while_what_was_pulled_is_imported(
    make_disk: Callable[..., Disk], smollm2_gguf: Path, machine: Machine
) -> None:
    disk = make_disk(400 * MIB)
    put_checkpoints_on(machine, disk)
    machine.hub.add(NAME, {"tiny-Q4_1.gguf": smollm2_gguf.read_bytes()})
    process = machine.start("pull", NAME)
    filled_while_importing(process, disk, machine.cache)
    assert f"the disk of {machine.cache} {FULL}" in ended(process)
    assert machine.left() == []
    disk.empty()
    asked = len(machine.hub.downloads())
    assert machine.pulled(NAME)["new"] is True
    assert len(machine.hub.downloads()) == asked


def test_a_file_from_an_address_does_not_fit(
    make_disk: Callable[..., Disk], machine: Machine
) -> None:
    disk = make_disk(2 * MIB)
    put_checkpoints_on(machine, disk)
    machine.hub.add(NAME, {"tiny.gguf": LARGE})
    command = [
        *(sys.executable, "-m", "lemonade_serve", "import"),
        f"{machine.hub.cdn_url}/{NAME}/tiny.gguf",
    ]
    process = subprocess.Popen(
        command, env=machine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    complaint = ended(process)
    assert f"the disk of {machine.cache}" in complaint
    assert FULL in complaint
    assert machine.left() == []


def test_a_daemon_says_so_and_goes_on(
    start_daemon: Callable[..., Daemon],
    make_disk: Callable[..., Disk],
    hub: Hub,
    machine: Machine,
    tiny_files: dict[str, bytes],
) -> None:
    disk = make_disk(8 * MIB)
    put_hub_cache_on(machine, disk)
    put_checkpoints_on(machine, disk)
    hub.add(NAME, {**tiny_files, "model.onnx.data": LARGE})
    released = held(machine)
    daemon = start_daemon(
        **{k: v for k, v in machine.environment.items() if k[:3] in ("HF_", "LEM")}
    )
    stream = daemon.events("/api/v0/pull", {"model": NAME})
    next(stream)
    assert hub.sent.acquire(timeout=60)
    disk.fill()
    released.set()
    *_, last = stream
    assert (last["status"], last["code"]) == ("error", "disk_full")
    assert FULL in last["message"]
    answer = daemon.client.post("/api/v0/pull", json={"model": NAME})
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert machine.left() == []
    disk.empty()
    assert daemon.client.post("/api/v0/pull", json={"model": NAME}).status_code == 200
