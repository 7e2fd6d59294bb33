"""What an operator may set: a TOML file, then the environment, then flags; the last one wins."""

from __future__ import annotations

from lemonade_serve.settings.load import load_settings
from lemonade_serve.settings.parameters import Options
from lemonade_serve.settings.schema import (
    Device,
    Devices,
    Job,
    Log,
    Pool,
    Server,
    Settings,
    Worker,
)

__all__ = [
    "Device",
    "Devices",
    "Job",
    "Log",
    "Options",
    "Pool",
    "Server",
    "Settings",
    "Worker",
    "load_settings",
]
