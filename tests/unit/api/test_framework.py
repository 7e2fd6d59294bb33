"""How Litestar is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["lemonade_serve.api.system", "lemonade_serve.cli.serve"])
def test_it_brings_no_advanced_alchemy(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "sys.exit(' '.join({'advanced_alchemy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_advanced_alchemy_can_be_imported_afterwards() -> None:
    code = "import lemonade_serve.api.system, advanced_alchemy.config"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
