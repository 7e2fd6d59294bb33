"""Plugin execution providers: the real ones, and some that do what a bad driver does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

CRASHES = "import ctypes; ctypes.string_at(0)"
HANGS = "import signal; signal.pause()"
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_PREFIX = "onnxruntime_ep_"


def stand_in(directory: Path, name: str, does: str) -> str:
    """A package of a plugin that does this when it is asked for its library; returns what finds
    it as PYTHONPATH."""
    package = directory / f"{_PREFIX}{name}"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text(f"def get_library_path():\n    {does}\n")
    return on_path(directory)


def on_path(directory: Path) -> str:
    """A PYTHONPATH with this directory in front."""
    return os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))


def real(downloads: Path) -> Path:
    """A directory with the packages of this project's extras, 180 MB, kept among the downloads."""
    extras = tomllib.loads(_PROJECT.read_text())["project"]["optional-dependencies"]
    wanted = [*extras["openvino"], *extras["webgpu"]]
    directory = downloads / "-".join(wanted).replace("=", "")
    if directory.exists():
        return directory
    with tempfile.TemporaryDirectory(dir=downloads) as scratch:
        unpacked = Path(scratch, "unpacked")
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet"]
        try:
            subprocess.run([*pip, "--target", str(unpacked), *wanted], check=True)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no package index gives {' and '.join(wanted)}: {error}")
        unpacked.rename(directory)
    return directory


def library(plugins: Path, name: str) -> Path:
    """Of a real plugin."""
    (found,) = (plugins / f"{_PREFIX}{name}").glob(f"libonnxruntime_providers_{name}*.so")
    return found


def alone(library: Path, directory: Path) -> Path:
    """A copy without what lies beside it."""
    return Path(shutil.copy(library, directory))
