"""What a result has to say of the machine and the code that it was measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("onnxruntime", "onnxruntime-genai", "granian", "litestar", "numpy")


def provenance() -> dict[str, object]:
    """Commit, CPU with its flags, cores, load and package versions."""
    info = Path("/proc/cpuinfo").read_text()
    model, flags = (re.search(rf"^{key}\s*: (.*)$", info, re.M) for key in ("model name", "flags"))
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    return {
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "cpu": model[1] if model else platform.machine(),
        "cpu_flags": sorted(flags[1].split()) if flags else [],
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
