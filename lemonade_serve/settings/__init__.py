"""What an operator may set: a TOML file, then the environment, then flags; the last one wins."""

from __future__ import annotations

from lemonade_serve.settings.headers import read_headers
from lemonade_serve.settings.keys import read_api_keys
from lemonade_serve.settings.load import Sourced, load_settings, load_sourced
from lemonade_serve.settings.memory import memory_bytes
from lemonade_serve.settings.parameters import Options
from lemonade_serve.settings.schema import (
    Device,
    Devices,
    Job,
    Log,
    Pool,
    Responses,
    Server,
    Settings,
    Tracing,
    Worker,
)

__all__ = [
    "Device",
    "Devices",
    "Job",
    "Log",
    "Options",
    "Pool",
    "Responses",
    "Server",
    "Settings",
    "Sourced",
    "Tracing",
    "Worker",
    "load_settings",
    "load_sourced",
    "memory_bytes",
    "read_api_keys",
    "read_headers",
]
