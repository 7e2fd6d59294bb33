"""Calls under way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from lemonade_serve.errors import StoreUnavailable

_T = TypeVar("_T")


class Calls:
    """Runs each in a task of its own: a caller who leaves does not break it off half-way."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, work: Coroutine[Any, Any, _T], *, timeout_s: float | None = None) -> _T:
        """What `work` returns or raises. Raises TimeoutError when that takes too long, and
        StoreUnavailable after `close`."""
        if self._closed:
            work.close()
            raise StoreUnavailable()
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._end)
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise TimeoutError
        return task.result()

    async def close(self, *, timeout_s: float) -> None:
        """Let those that run finish, cut those that do not in time, and take no more."""
        self._closed = True
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_s)
            for task in late:
                task.cancel()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits for it any more
