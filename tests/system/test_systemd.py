"""The unit of systemd, examined by systemd's own tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.programs import program
from tests.system.stack import DEPLOY

pytestmark = pytest.mark.system

UNIT = DEPLOY / "systemd/lemonade-serve.service"
MOST_EXPOSED = 20
"""Of 100; units that nobody hardened have 96."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    analyzer = program("systemd-analyze", "Debian's systemd")
    return subprocess.run([analyzer, *arguments], capture_output=True, text=True, check=False)


def installed(root: Path, text: str, *, devices: bool = False) -> Path:
    """The unit, below a root of its own where the daemon is installed."""
    program_ = root / "opt/lemonade/bin/lemonade-serve"
    for directory in (program_.parent, root / "bin", root / "etc/systemd/system"):
        directory.mkdir(parents=True)
    for path in (program_, root / "bin/kill"):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    unit = root / "etc/systemd/system/lemonade-serve.service"
    unit.write_text(text)
    if devices:
        shutil.copytree(DEPLOY / "systemd/lemonade-serve.service.d", f"{unit}.d")
    return unit


def verified(root: Path, text: str, *, devices: bool = False) -> str:
    """What systemd complains of in the unit itself."""
    unit = installed(root, text, devices=devices)
    done = analyze("verify", "--man=no", f"--root={root}", "--recursive-errors=no", unit.name)
    return done.stdout + done.stderr


@pytest.mark.parametrize("devices", [False, True])
def test_systemd_understands_every_line(tmp_path: Path, devices: bool) -> None:
    said = verified(tmp_path, UNIT.read_text(), devices=devices)
    assert "lemonade-serve.service" not in said, said


def test_a_misspelt_line_would_be_noticed(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("ProtectSystem=", "ProtectSytem=")
    assert "ProtectSytem" in verified(tmp_path, text)


def test_what_is_pulled_lies_with_the_checkpoints_and_not_with_the_state() -> None:
    assert "Environment=HF_HOME=%C/lemonade/" in UNIT.read_text()


@pytest.mark.parametrize("devices", [False, True])
def test_little_is_exposed(tmp_path: Path, devices: bool) -> None:
    unit = installed(tmp_path, UNIT.read_text(), devices=devices)
    done = analyze(
        *("security", "--offline=true", f"--root={tmp_path}", f"--threshold={MOST_EXPOSED}"),
        unit.name,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
