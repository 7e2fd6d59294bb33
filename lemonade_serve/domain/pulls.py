"""Pulls: some at once, and who wants the same one shares it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from lemonade_serve import errors
from lemonade_serve.domain.fetcher import Fetcher, Progress, Pulled
from lemonade_serve.domain.orders import Order


class _Pull:
    """One that runs or waits, and who wants it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Pulled]
        self.wanted = 0
        self.kept = False
        """Wanted by the daemon itself, whoever leaves."""
        self.listeners: list[Progress] = []
        self.stage, self.fraction = "waiting for its turn", 0.0

    def progress(self, stage: str, fraction: float) -> None:
        self.stage, self.fraction = stage, fraction
        for listener in list(self.listeners):
            listener(stage, fraction)

    async def result(self) -> Pulled:
        """Whoever waits for it may go, and it goes on."""
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self.task.cancelled():
                raise errors.Draining from None
            raise


class Puller:
    """Runs pulls, some at once, each for all who want it; one that nobody wants any more ends, and
    what it has of the files is there for the next one."""

    def __init__(self, fetcher: Fetcher, *, at_once: int, queue: int) -> None:
        """`at_once` pulls run, and `queue` more wait."""
        self._fetcher = fetcher
        self._most = at_once + queue
        self._turns = asyncio.Semaphore(at_once)
        self._pulls: dict[Order, _Pull] = {}
        self._tasks: set[asyncio.Task[Pulled]] = set()

    async def pull(self, order: Order, progress: Progress) -> Pulled:
        """Get it, unless it is here. `progress` is told the stage and how much is done.

        Raises as the Fetcher does, and QueueFull.
        """
        pull = self._pulls.get(order) or self._begin(order)
        pull.wanted += 1
        pull.listeners.append(progress)
        progress(pull.stage, pull.fraction)
        try:
            return await pull.result()
        finally:
            pull.listeners.remove(progress)
            await self._leave(order, pull)

    async def ensure(self, order: Order, timeout_s: float) -> Pulled:
        """As `pull`, by whoever cannot wait for it longer: the pull goes on, and this raises
        Unavailable, with how far it is."""
        pull = self._pulls.get(order) or self._begin(order)
        pull.kept = True
        try:
            async with asyncio.timeout(timeout_s):
                return await pull.result()
        except TimeoutError:
            raise errors.Unavailable(
                f"{order.model} is being pulled: {pull.stage}, {pull.fraction:.0%}"
            ) from None

    def drain(self) -> None:
        """Begin to end all of them."""
        for task in self._tasks:
            if not task.cancelling():  # once more would leave its process behind
                task.cancel()

    async def close(self) -> None:
        """End all of them."""
        self.drain()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, order: Order) -> _Pull:
        if len(self._pulls) >= self._most:
            raise errors.QueueFull(
                f"{len(self._pulls)} pulls run or wait already (hub.max_pulls, hub.max_queue)"
            )
        pull = self._pulls[order] = _Pull()
        pull.task = asyncio.create_task(self._run(order, pull.progress), name="pull")
        self._tasks.add(pull.task)
        pull.task.add_done_callback(lambda task: self._ended(order, pull, task))
        return pull

    def _ended(self, order: Order, pull: _Pull, task: asyncio.Task[Pulled]) -> None:
        self._tasks.discard(task)
        if self._pulls.get(order) is pull:
            del self._pulls[order]
        if not task.cancelled():
            task.exception()  # whoever waits for it hears of it; perhaps nobody does

    async def _leave(self, order: Order, pull: _Pull) -> None:
        pull.wanted -= 1
        if pull.wanted or pull.kept or pull.task.done():
            return
        if self._pulls.get(order) is pull:
            del self._pulls[order]
        pull.task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({pull.task})

    async def _run(self, order: Order, progress: Progress) -> Pulled:
        async with self._turns:
            return await self._fetcher.fetch(order, progress)
