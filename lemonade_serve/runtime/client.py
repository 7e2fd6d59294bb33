"""The daemon's end of one worker: many requests over one socket."""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import AsyncGenerator
from pathlib import Path

import structlog

from lemonade_serve import errors
from lemonade_serve.protocol.framing import FrameError
from lemonade_serve.protocol.messages import (
    Cancel,
    Event,
    Events,
    Failed,
    Finished,
    Generate,
    Prompt,
    Ready,
    ResolvedParams,
    Started,
    Token,
)
from lemonade_serve.runtime.child import Child

log = structlog.get_logger()


class WorkerClient:
    """A `Worker` (domain/ports.py) over a loaded child.

    When the child dies, `exited` is done first and then every running request fails: a caller
    that hears of the loss can no longer be given the dead worker.
    """

    def __init__(self, child: Child, ready: Ready, *, stop_timeout_s: float) -> None:
        self._child = child
        self._stop_timeout_s = stop_timeout_s
        self._ids = itertools.count(1)
        self._requests: dict[int, asyncio.Queue[Event | errors.LemonadeError]] = {}
        self._cause: errors.LemonadeError | None = None
        self.pid = child.pid
        self.ready = ready
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(), name=f"worker-{child.pid}")

    @property
    def memory_bytes(self) -> int:
        try:
            resident_pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return resident_pages * resource.getpagesize()

    async def generate(
        self, prompt: Prompt, params: ResolvedParams
    ) -> AsyncGenerator[Started | Token | Finished]:
        if self.exited.done():
            raise self._loss()
        request = next(self._ids)
        queue = self._requests[request] = asyncio.Queue()
        self._child.send(Generate(request, prompt, params))
        try:
            while True:
                event = await queue.get()
                if isinstance(event, errors.LemonadeError):
                    raise event
                if isinstance(event, Failed):
                    raise errors.from_code(event.code, event.message, event.param)
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            # Still known: nobody has heard its end, so the worker must not go on with it.
            if self._requests.pop(request, None) is not None:
                self._child.send(Cancel(request))

    async def stop(self, cause: errors.LemonadeError) -> None:
        self._cause = cause
        await self._child.stop(self._stop_timeout_s)
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            while (report := await self._child.receive()) is not None:
                if not isinstance(report, Events):
                    raise FrameError(f"a loaded worker sent {type(report).__name__}")
                for event in report.events:
                    self._deliver(event)
            how = await self._child.stop(self._stop_timeout_s)
        except FrameError as error:
            how = f"{error}; {await self._child.kill()}"
        self.exited.set_result(how)
        for queue in self._requests.values():
            queue.put_nowait(self._loss())

    def _deliver(self, event: Event) -> None:
        queue = self._requests.get(event.request)
        if queue is None:  # cancelled while it was on its way
            log.debug("event_discarded", request=event.request, kind=type(event).__name__)
            return
        if isinstance(event, Finished | Failed):
            del self._requests[event.request]
        queue.put_nowait(event)

    def _loss(self) -> errors.LemonadeError:
        return self._cause or errors.WorkerLost(f"the model's worker died: {self.exited.result()}")
