"""Programs that this machine may have or not."""

from __future__ import annotations

import shutil

import pytest


def program(name: str, package: str) -> str:
    """Its path; skips the test where there is none, saying what to install."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: install {package}")
    return found
