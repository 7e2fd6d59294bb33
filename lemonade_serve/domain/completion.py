"""The one way through the house: every dialect of the API ends here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain import device as devices
from lemonade_serve.domain.checkpoint import AUTO, CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.ports import CheckpointCatalog, Clock
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.residency.slot import Lease, Slot, SlotState
from lemonade_serve.domain.sampling import Options, resolve
from lemonade_serve.protocol.messages import (
    ChatPrompt,
    Finished,
    FinishReason,
    Message,
    Prompt,
    ResolvedParams,
    Started,
    TextPrompt,
    Token,
    TokensPrompt,
)

__all__ = [
    "ChatPrompt",
    "CompletionRequest",
    "CompletionService",
    "FinishReason",
    "Finished",
    "Generation",
    "Message",
    "Placement",
    "TextPrompt",
    "Token",
    "TokensPrompt",
]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Which checkpoint, and where: what a request may say about loading."""

    model: str | None = None
    device: str = devices.HYBRID
    dtype: str = AUTO
    cache_dir: str | None = None


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`arrived` is when the request did, on the service's clock: times count from there."""

    prompt: Prompt
    options: Options
    placement: Placement
    arrived: float
    streaming: bool = False


class Generation:
    """One request under way. Read `next` until it returns a `Finished`; `cancel` when nobody
    reads any more. Both may be called from the event loop only, and `cancel` never waits."""

    def __init__(self, info: CheckpointInfo, device: Device, arrived: float) -> None:
        self.model = info.name
        self.device = device.value
        self.dtype = info.dtype
        self.arrived = arrived
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.token_times: list[float] = []
        self.first_text_at: float | None = None
        self.finish_reason: FinishReason | None = None
        self.task: asyncio.Task[None] | None = None
        self.lease: Lease | None = None
        self._loop = asyncio.get_running_loop()
        self._unread: deque[Token | Finished | Exception] = deque()
        self._reader: asyncio.Future[None] | None = None

    @property
    def reason(self) -> str:
        """Why it finished, in the wire's words; empty if it has not."""
        return self.finish_reason.value if self.finish_reason else ""

    @property
    def completion_tokens(self) -> int:
        return len(self.token_times)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    async def next(self, timeout_s: float | None = None) -> Token | Finished:
        """The next event. Raises TimeoutError, losing nothing, or the error that ended it.

        Written on a bare future: this runs for every token, and a Queue under a timeout costs
        several times as much.
        """
        if not self._unread:
            reader = self._reader = self._loop.create_future()
            alarm = None if timeout_s is None else self._loop.call_later(timeout_s, _ring, reader)
            try:
                await reader
            finally:
                self._reader = None
                if alarm:
                    alarm.cancel()
            if not self._unread:
                raise TimeoutError
        event = self._unread.popleft()
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        if self.task:
            self.task.cancel()

    def fail(self, error: Exception) -> None:
        """Cancel it, with an error that its reader sees after what is already there."""
        self.cancel()
        self.put(error)

    def take(self, event: Started | Token | Finished) -> None:
        """What the worker said, on its way to the reader."""
        match event:
            case Started():
                self.prompt_tokens = event.prompt_tokens
                self.cached_tokens = event.cached_tokens
                if self.lease:
                    self.lease.running = True
                return
            case Token():
                self.token_times.append(event.at)
                if event.text and self.first_text_at is None:
                    self.first_text_at = event.at
            case Finished():
                self.finish_reason = event.reason
        self.put(event)

    def put(self, event: Token | Finished | Exception) -> None:
        """The next thing that the reader gets; an error is the last."""
        self._unread.append(event)
        if self._reader:
            _ring(self._reader)

    def figures(self) -> dict[str, object]:
        """What a log line may say of it: numbers and names, never text. Times in seconds."""
        times = self.token_times
        ttft = round(self.first_text_at - self.arrived, 6) if self.first_text_at else None
        per_token = round((times[-1] - times[0]) / (len(times) - 1), 6) if len(times) > 1 else None
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "time_to_first_token": ttft,
            "time_per_output_token": per_token,
            "finish_reason": self.reason or None,
        }


def _ring(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)


class CompletionService:
    """Finds the checkpoint, leases it, generates, and gives the lease back."""

    def __init__(
        self,
        catalog: CheckpointCatalog,
        pool: Pool,
        *,
        devices: Sequence[Device],
        default_model: str | None,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._devices = devices
        self._default_model = default_model
        self._running: set[Generation] = set()
        self.clock = clock

    async def begin(self, request: CompletionRequest) -> Generation:
        """Start a request. Raises at once what is wrong with it before its model is loaded:
        InvalidRequest, ModelNotFound, NotAllowed; the rest comes out of the Generation."""
        params = resolve(request.options)
        info, device = await self.locate(request.placement)
        generation = Generation(info, device, request.arrived)
        generation.task = asyncio.create_task(
            self._run(generation, request, params, info, device), name="generation"
        )
        self._running.add(generation)
        generation.task.add_done_callback(lambda _: self._running.discard(generation))
        return generation

    async def load(self, placement: Placement) -> CheckpointInfo:
        """Make a checkpoint resident; returns which. Raises ModelLoadError and as `begin` does."""
        info, device = await self.locate(placement)
        async with self._pool.acquire(info, device):
            return info

    async def unload(
        self, *, model: str | None = None, device: str | None = None, force: bool = False
    ) -> int:
        """Unload one model, one device's or all; returns how many left."""
        where = devices.place(device, self._devices) if device else None
        return await self._pool.unload(model=model, device=where, force=force)

    def resident(self) -> Sequence[Slot]:
        """The pool's slots, the most recently used first. For reading only."""
        return self._pool.slots()

    async def checkpoints(self) -> Sequence[CheckpointInfo]:
        """What is on disk."""
        return await asyncio.to_thread(self._catalog.list, None)

    @property
    def devices(self) -> Sequence[Device]:
        """What this machine has, the preferred one first."""
        return self._devices

    async def locate(self, placement: Placement) -> tuple[CheckpointInfo, Device]:
        """The checkpoint and device that a request means: a resident one if it says no more of it
        than the name, and what the disk has otherwise."""
        device = devices.place(placement.device, self._devices)
        resident = [slot for slot in self._pool.slots() if slot.state is SlotState.RESIDENT]
        model = placement.model
        if model is None:
            model = resident[0].info.name if resident else self._default_model
        if model is None:
            raise errors.InvalidRequest(
                "no model is named, none is resident and no default_model is set", param="model"
            )
        if placement.dtype == AUTO and placement.cache_dir is None:
            for slot in resident:
                if slot.info.name == model and placement.device in (
                    devices.HYBRID,
                    slot.device.value,
                ):
                    return slot.info, slot.device
        info = await asyncio.to_thread(
            self._catalog.find, model, placement.dtype, placement.cache_dir
        )
        return info, device

    def abort(self, error: errors.LemonadeError) -> None:
        """End everything that runs with `error`."""
        for generation in list(self._running):
            generation.fail(error)

    async def _run(
        self,
        generation: Generation,
        request: CompletionRequest,
        params: ResolvedParams,
        info: CheckpointInfo,
        device: Device,
    ) -> None:
        try:
            streaming = request.streaming
            async with self._pool.acquire(info, device, streaming=streaming) as (worker, lease):
                generation.lease = lease
                await worker.generate(request.prompt, params, generation.take)
        except Exception as error:  # the reader raises it, where the API logs what nobody foresaw
            generation.put(error)
