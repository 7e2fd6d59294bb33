"""What the libraries that compute may do besides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_CHILD = """
import os
from lemonade_serve.worker.sampler import Sampler
Sampler(64)._top
for number in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{number}"))
    except FileNotFoundError:
        pass
"""


def test_onnxruntime_keeps_no_book_about_its_user(tmp_path: Path) -> None:
    environment = {n: v for n, v in os.environ.items() if n != "ORT_DISABLE_TELEMETRY"}
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        env=environment | homes,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout
    assert str(tmp_path) not in done.stdout
    assert list(tmp_path.rglob("*")) == []
