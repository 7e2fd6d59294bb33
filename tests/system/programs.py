"""Programs that this machine may have or not."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str, package: str) -> str:
    """Its path, out of this Python's environment first; skips the test where there is none, saying
    what to install."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"there is no {name}: install {package}")
    return found
