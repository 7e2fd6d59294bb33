"""One image, one volume with a checkpoint, for all tests that need them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.containers import HARDENED, IMAGE, Container, docker

StartContainer = Callable[..., Container]

_EXPORTER = os.environ.get("LEMONADE_CONVERT__PYTHON", "")
_ENCODER_EXPORTER = os.environ.get("LEMONADE_CONVERT__ENCODER_PYTHON", "")
"""Read here: tests see no settings of whoever runs them."""


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips where there is no Docker."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker: install Docker's engine")
    if docker("info", check=False).returncode:
        pytest.skip("no Docker engine answers `docker info`")


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """Built as docs/containers.md says."""
    docker("build", "--tag", IMAGE, ".", env={**os.environ, "DOCKER_BUILDKIT": "1"})
    return IMAGE


@pytest.fixture(scope="session")
def checkpoints(image: str) -> Iterator[str]:
    """The volume that an import out of the package index has filled."""
    volume = docker("volume", "create").stdout.strip()
    mount = ("--volume", f"{volume}:/var/cache/lemonade")
    docker("run", "--rm", *HARDENED, *mount, image, "import", "demo", "--if-missing")
    yield volume
    docker("volume", "rm", "--force", volume)


@pytest.fixture
def start_container(checkpoints: str) -> Iterator[StartContainer]:
    """Starts daemons that have the checkpoint, hardened; waits until they answer."""
    with ExitStack() as started:

        def start(*options: str, **settings: str) -> Container:
            mount = ("--volume", f"{checkpoints}:/var/cache/lemonade")
            container = Container(*mount, *options, **settings)
            started.callback(container.remove)
            container.await_answer()
            return container

        yield start


@pytest.fixture
def accelerator(tmp_path: Path) -> str:
    """A device file as an NPU's driver makes it: it belongs to the group 992, and others may not
    open it. It is the null device."""
    if os.geteuid() != 0:
        pytest.skip("a device file needs root")
    node = tmp_path / "accel0"
    os.mknod(node, stat.S_IFCHR | 0o660, os.makedev(1, 3))
    os.chown(node, 0, 992)
    node.chmod(0o660)
    return f"{node}:/dev/accel/accel0"


@pytest.fixture(scope="session")
def exporter() -> str:
    """The interpreter of an environment that converts models: it has this package, with the extra
    `export` (docs/convert.md)."""
    if not _EXPORTER:
        pytest.skip("no LEMONADE_CONVERT__PYTHON names an environment with the extra `export`")
    _check(_EXPORTER, "import lemonade_serve, onnx_ir, torch, transformers")
    return _EXPORTER


@pytest.fixture(scope="session")
def encoder_exporter() -> str:
    """That of one that converts encoders: it has this package, and what
    deploy/encoders/requirements.txt lists (docs/embeddings.md)."""
    if not _ENCODER_EXPORTER:
        pytest.skip("no LEMONADE_CONVERT__ENCODER_PYTHON names an environment with optimum-onnx")
    _check(_ENCODER_EXPORTER, "import lemonade_serve, onnx_ir, torch, optimum.exporters.onnx")
    return _ENCODER_EXPORTER


def _check(python: str, program: str) -> None:
    done = subprocess.run((python, "-c", program), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
