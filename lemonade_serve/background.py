"""What goes on beside the requests: models load before they are asked for, old answers go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from lemonade_serve import errors
from lemonade_serve.domain.conversations import Conversations
from lemonade_serve.domain.ports import Clock
from lemonade_serve.domain.readiness import Readiness
from lemonade_serve.domain.residents import Residents

log = structlog.get_logger()


@asynccontextmanager
async def expiring(conversations: Conversations, clock: Clock) -> AsyncGenerator[None]:
    """Let go of what is past its time, even when nobody asks for anything."""

    async def expire() -> None:
        while True:
            pause_s = conversations.expire(clock())
            await asyncio.sleep(pause_s)

    expiring = asyncio.create_task(expire(), name="expiry of conversations")
    try:
        yield
    finally:
        expiring.cancel()
        await asyncio.wait({expiring})


class Preloads:
    """Loads what settings name, while requests are answered."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, models: Sequence[str], readiness: Readiness) -> None:
        """Load what is pinned and then these; then the daemon has started."""

        async def load() -> None:
            await self._residents.preload_pinned(_preload_failed)
            await self._residents.preload(models, _preload_failed)

        def started(_: asyncio.Task[None]) -> None:
            readiness.starting = False

        self._begin(load()).add_done_callback(started)

    def more(self, models: Sequence[str]) -> None:
        """Load these too."""
        if models:
            self._begin(self._residents.preload(models, _preload_failed))

    def _begin(self, loading: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        preload = asyncio.create_task(loading, name="preload")
        self.tasks.add(preload)
        preload.add_done_callback(self._ended)
        return preload

    def _ended(self, preload: asyncio.Task[None]) -> None:
        self.tasks.discard(preload)
        if not preload.cancelled() and (error := preload.exception()):
            log.error("preload_broke", exc_info=error)


def _preload_failed(model: str, error: errors.LemonadeError) -> None:
    log.warning("preload_failed", model=model, code=error.code, reason=error.message)


@asynccontextmanager
async def preloading(residents: Residents) -> AsyncGenerator[Preloads]:
    preloads = Preloads(residents)
    try:
        yield preloads
    finally:
        for preload in (left := set(preloads.tasks)):
            preload.cancel()
        if left:
            await asyncio.wait(left)
