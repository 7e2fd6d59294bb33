"""The pool's place for one worker, and what outsiders see of it."""

from __future__ import annotations

import enum
from pathlib import Path

import msgspec


class SlotState(enum.Enum):
    """`waiting`: wanted, and there is no room yet. `draining`: running requests finish, and no
    new ones begin. `unloading`: its worker is ending."""

    WAITING = "waiting"
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    UNLOADING = "unloading"


class SlotView(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint on one device, as it is now. What is None is not known before its load."""

    model: str
    path: Path
    device: str
    dtype: str
    state: SlotState
    pinned: bool
    streaming: bool
    running: int
    """Requests that the engine has begun with."""
    waiting: int
    """Requests that wait: for room, for the load, or for a sequence slot."""
    memory_bytes: int
    """What it is charged for: an estimate before its load, measured afterwards; 0 while it waits."""
    last_use: float
    """On the service's clock, in seconds."""
    engine: str | None = None
    pid: int | None = None


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device's room, and how much of it is taken."""

    device: str
    execution_provider: str
    max_models: int
    models: int
    memory_budget_bytes: int
    memory_used_bytes: int
