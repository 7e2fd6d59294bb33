"""The job process itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ABANDON = """
import shutil, sys
from pathlib import Path
from lemonade_serve.importers.__main__ import _abandon
if len(sys.argv) > 2:
    shutil.rmtree = lambda path, ignore_errors: None
_abandon(Path(sys.argv[1]))
"""


def abandon(into: Path, *more: str) -> int:
    command = [sys.executable, "-c", _ABANDON, str(into), *more]
    return subprocess.run(command, check=False, timeout=60).returncode


def test_a_job_for_nobody_removes_what_it_made_and_ends(tmp_path: Path) -> None:
    (tmp_path / "into" / "sub").mkdir(parents=True)
    assert abandon(tmp_path / "into") == 1
    assert list(tmp_path.iterdir()) == []


def test_it_ends_though_the_disk_lets_go_of_nothing(tmp_path: Path) -> None:
    """As one that was mounted read-only meanwhile."""
    assert abandon(tmp_path, "which stays") == 1
    assert tmp_path.exists()
