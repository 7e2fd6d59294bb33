"""The pool's place for one worker, what waits for one, and what outsiders see of both."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import NamedTuple

import msgspec

from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.events import Departure
from lemonade_serve.domain.ports import Pin


class SlotState(enum.Enum):
    """`waiting`: wanted, and there is no room yet. `draining`: running requests finish, and no
    new ones begin. `unloading`: its worker is ending."""

    WAITING = "waiting"
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    UNLOADING = "unloading"


TRANSITIONS = {
    SlotState.LOADING: {SlotState.RESIDENT, SlotState.DRAINING, SlotState.UNLOADING},
    SlotState.RESIDENT: {SlotState.DRAINING, SlotState.UNLOADING},
    SlotState.DRAINING: {SlotState.RESIDENT, SlotState.UNLOADING},
    SlotState.UNLOADING: set[SlotState](),
}
"""Where a slot may go; from each state it may also be gone at once."""


class Key(NamedTuple):
    """One checkpoint on one device: at most one slot."""

    path: Path
    device: Device


class Slot:
    """One checkpoint on one device, from the reservation of its memory until its worker is reaped.
    Only the scheduler changes it."""

    def __init__(self, info: CheckpointInfo, device: Device, memory_bytes: int, now: float) -> None:
        self.info = info
        self.key = Key(info.path, device)
        self.state = SlotState.LOADING
        self.memory_bytes = memory_bytes
        """What its device is charged."""
        self.reserved_bytes = memory_bytes
        """The least that it is charged: the estimate; once it is loaded, what it took then and what
        its KV cache may come to take."""
        self.tickets: dict[int, None] = {}
        """In order of arrival, who has a lease, or while it loads, waits for one."""
        self.last_use = now
        self.loaded_at = now
        self.keep_alive_s: float | None = None
        """Unloaded when it was idle for so long; None: never."""
        self.leaving: Departure | None = None
        self.cut_at: float | None = None
        """While it drains: when those that still run are cut."""

    @property
    def pin(self) -> Pin:
        """What a pin of it would say."""
        return pin_of(self.info, self.key.device)

    @property
    def idle(self) -> bool:
        return self.state is SlotState.RESIDENT and not self.tickets

    @property
    def expires_at(self) -> float | None:
        """When it was idle for long enough; None: never."""
        return None if self.keep_alive_s is None else self.last_use + self.keep_alive_s

    @property
    def going(self) -> bool:
        """Whether its memory will be free without anything else being decided."""
        return self.leaving is not None or self.ending

    @property
    def ending(self) -> bool:
        """Whether its worker has been told to stop."""
        return self.state is SlotState.UNLOADING

    @property
    def yielding(self) -> bool:
        """Whether it drains for others, and may yet stay."""
        return self.state is SlotState.DRAINING and self.leaving is Departure.LRU

    def reserve(self, memory_bytes: int) -> None:
        """From now on it is charged so much at least."""
        self.memory_bytes = self.reserved_bytes = memory_bytes

    def measure(self, memory_bytes: int) -> None:
        """What its worker takes by now. What that has come to use of its KV cache is a part of the
        reserve already."""
        self.memory_bytes = max(self.reserved_bytes, memory_bytes)

    def move(self, state: SlotState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a slot cannot go from {self.state} to {state}")
        self.state = state


class Demand:
    """Requests for a checkpoint that has no slot yet, in order of arrival."""

    def __init__(self, info: CheckpointInfo, device: Device, now: float) -> None:
        self.info = info
        self.key = Key(info.path, device)
        self.since = now
        self.tickets: dict[int, None] = {}
        self.keep_alive_s: float | None = None


def pin_of(info: CheckpointInfo, device: Device) -> Pin:
    """How a pin names a checkpoint on a device."""
    return Pin(info.name, device.value, info.dtype)


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
    """What it is charged: an estimate before its load, afterwards what was measured and the room
    that its KV cache has left; 0 while it waits."""
    last_use: float
    """On the service's clock, in seconds."""
    engine: str | None = None
    engine_reason: str | None = None
    """Why this engine serves it."""
    pid: int | None = None
    kv_tokens: int = 0
    """What its running sequences have of the KV cache."""
    kv_cache_tokens: int = 0
    """What that has room for; 0 while it waits."""


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device's room, and how much of it is taken."""

    device: str
    execution_provider: str
    max_models: int
    models: int
    memory_budget_bytes: int
    memory_used_bytes: int
