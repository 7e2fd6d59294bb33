"""The daemon's end of one worker: many requests over one socket."""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from lemonade_serve import errors
from lemonade_serve.domain.ports import Deliver, DeliverEncoded
from lemonade_serve.protocol.messages import (
    Cancel,
    Encode,
    Encoded,
    Encoding,
    Event,
    Events,
    Failed,
    Finished,
    Generate,
    Ready,
    Report,
    Work,
)
from lemonade_serve.runtime.child import Child

log = structlog.get_logger()


class _Request:
    """Over when all its sequences have finished, or all its inputs are encoded."""

    def __init__(
        self, unfinished: int, deliver: Callable[[Any], None], ended: asyncio.Future[None]
    ) -> None:
        self.deliver = deliver
        self.ended = ended
        self.unfinished = unfinished


class WorkerClient:
    """A `Worker` (domain/ports.py) over a loaded child.

    When the child dies, `exited` is done first and then every running request fails: a caller
    that hears of the loss can no longer be given the dead worker.
    """

    def __init__(
        self, child: Child, ready: Ready, *, stop_timeout_s: float, decoded: Callable[[int], None]
    ) -> None:
        """`decoded` is told how many sequences got a token together; must not block or raise."""
        self._child = child
        self._decoded = decoded
        self._kv_tokens = 0
        self._stop_timeout_s = stop_timeout_s
        self._ids = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._cause: errors.LemonadeError | None = None
        self._loop = asyncio.get_running_loop()
        self.pid = child.pid
        self.ready = ready
        self.exited: asyncio.Future[str] = self._loop.create_future()
        self._silent = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(), name=f"worker-{child.pid}")
        child.listen(self._hear)

    @property
    def memory_bytes(self) -> int:
        try:
            resident_pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return resident_pages * resource.getpagesize()

    @property
    def kv_tokens(self) -> int:
        # Of requests that were given up the worker need not say that their room is free.
        return self._kv_tokens if self._requests else 0

    async def generate(self, work: Work, deliver: Deliver) -> None:
        number = next(self._ids)
        await self._request(number, Generate(number, work), work.n, deliver)

    async def encode(self, work: Encoding, deliver: DeliverEncoded) -> None:
        number = next(self._ids)
        await self._request(number, Encode(number, work), len(work.inputs), deliver)

    async def _request(
        self,
        number: int,
        command: Generate | Encode,
        unfinished: int,
        deliver: Callable[[Any], None],
    ) -> None:
        if self.exited.done():
            raise self._loss()
        ended = self._loop.create_future()
        self._requests[number] = _Request(unfinished, deliver, ended)
        try:
            self._child.send(command)
            await ended
        finally:
            # Still known: nobody has heard its end, so the worker must not go on with it.
            if self._requests.pop(number, None):
                self._child.send(Cancel(number))

    async def stop(self, cause: errors.LemonadeError) -> None:
        self._cause = cause
        await self._child.stop(self._stop_timeout_s)
        await asyncio.shield(self._watching)

    def _hear(self, report: Report | None) -> None:
        match report:
            case Events(events, batch, kv_tokens):
                self._kv_tokens = kv_tokens
                if batch:
                    self._decoded(batch)
                for event in events:
                    self._pass_on(event)
            case None:
                self._silent.set()
            case _:
                log.error("frame_unexpected", kind=type(report).__name__, pid=self.pid)

    def _pass_on(self, event: Event) -> None:
        request = self._requests.get(event.request)
        if request is None or request.ended.done():  # cancelled while it was on its way
            log.debug("event_discarded", request=event.request, kind=type(event).__name__)
            return
        if isinstance(event, Failed):
            del self._requests[event.request]
            request.ended.set_exception(errors.from_code(event.code, event.message, event.param))
            return
        request.deliver(event)
        if isinstance(event, Finished | Encoded):
            request.unfinished -= 1
            if not request.unfinished:
                del self._requests[event.request]
                request.ended.set_result(None)

    async def _watch(self) -> None:
        await self._silent.wait()
        self.exited.set_result(await self._child.stop(self._stop_timeout_s))
        for request in self._requests.values():
            if not request.ended.done():
                request.ended.set_exception(self._loss())
        self._requests.clear()

    def _loss(self) -> errors.LemonadeError:
        return self._cause or errors.WorkerLost(f"the model's worker died: {self.exited.result()}")
