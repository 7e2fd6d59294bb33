"""The pool's place for one worker."""

from __future__ import annotations

import asyncio
import enum

from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.ports import Worker


class SlotState(enum.Enum):
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"


class Lease:
    """The right to use a resident checkpoint, from before its load until it is given back."""

    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming
        self.running = False
        """Whether the engine has begun with the request."""


class Slot:
    """One checkpoint on one device. Only the pool changes it."""

    def __init__(
        self, info: CheckpointInfo, device: Device, loading: asyncio.Task[Worker], now: float
    ) -> None:
        self.info = info
        self.device = device
        self.loading = loading
        self.state = SlotState.LOADING
        self.leases: set[Lease] = set()
        self.last_use = now
        self.waiting_for_next = 0
        """Requests that came while it was draining, and want the checkpoint loaded again."""
        self.gone = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def draining(self) -> bool:
        return self.state is SlotState.DRAINING

    @property
    def worker(self) -> Worker | None:
        """None while it loads."""
        done = self.loading.done() and not self.loading.cancelled() and not self.loading.exception()
        return self.loading.result() if done else None
