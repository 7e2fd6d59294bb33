"""The way through the house for what is encoded: embeddings, and scores of documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo, Task
from lemonade_serve.domain.events import Outcome, RequestFinished
from lemonade_serve.domain.placement import Locator, Placement
from lemonade_serve.domain.ports import Clock, Observer
from lemonade_serve.domain.residency.pool import Lease, Pool
from lemonade_serve.domain.service import Service
from lemonade_serve.domain.turns import Turns
from lemonade_serve.protocol.messages import Begun, Encoded, TextPrompt, TokensPrompt
from lemonade_serve.protocol.messages import Encoding as Work

__all__ = [
    "Encoding",
    "EncodingRequest",
    "EncodingService",
    "Placement",
    "Task",
    "TextPrompt",
    "TokensPrompt",
]


class EncodingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Encode each of `inputs`, or score it for `query`. `arrived` is when the request did, on the
    service's clock; `endpoint` is its route's short name; `field` what it calls its inputs;
    `traceparent` is for traces."""

    task: Task
    inputs: tuple[TextPrompt | TokensPrompt, ...]
    placement: Placement
    arrived: float
    endpoint: str
    client: str
    field: str
    query: str | None = None
    truncate: bool = False
    dimensions: int | None = None
    traceparent: str = ""


class Encoding:
    """One request under way; `values` waits for all of it. Cancelled there, it is given up.

    `report` is called once, with what became of it, before whoever waits has it.
    """

    def __init__(
        self,
        info: CheckpointInfo,
        lease: Lease,
        request: EncodingRequest,
        *,
        clock: Clock,
        report: Callable[[RequestFinished], None],
    ) -> None:
        self.model = info.name
        self.dtype = info.dtype
        self.prompt_tokens = 0
        """Of all inputs that were read."""
        self.started_at: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._lease = lease
        self._request = request
        self._clock = clock
        self._report = report
        self._values: list[bytes] = [b""] * len(request.inputs)
        self._failure: errors.LemonadeError | None = None

    async def values(self) -> list[bytes]:
        """Of each input its vector, or its score: little-endian float32. Raises what ended it."""
        try:
            if self.task:
                await self.task
        except asyncio.CancelledError:
            if self._failure is None:
                raise
            raise self._failure from None
        return self._values

    def fail(self, error: errors.LemonadeError) -> None:
        """Cancel it, with an error for whoever waits."""
        self._failure = error
        if self.task:
            self.task.cancel()

    def take(self, event: Begun | Encoded) -> None:
        """What the worker said."""
        match event:
            case Begun():
                self.started_at = event.at
                self._lease.running = True
            case Encoded():
                self.prompt_tokens += event.tokens
                self._values[event.index] = event.values

    def end(self, task: asyncio.Task[None]) -> None:
        """It came to its end, whichever: report it."""
        error = self._failure if task.cancelled() else task.exception()
        cancelled = task.cancelled() and error is None
        self._report(self._finished(_outcome(error, cancelled=cancelled), error))

    def figures(self) -> dict[str, object]:
        """What a log line may say of it: numbers and names, never text."""
        return {
            "model": self.model,
            "device": self._lease.device.value,
            "dtype": self.dtype,
            "inputs": len(self._values),
            "prompt_tokens": self.prompt_tokens,
        }

    def _finished(self, outcome: Outcome, error: BaseException | None) -> RequestFinished:
        arrived, reason = self._request.arrived, getattr(error, "code", "")
        queued = None if self.started_at is None else max(0.0, self.started_at - arrived)
        return RequestFinished(
            model=self.model,
            device=self._lease.device.value,
            dtype=self.dtype,
            endpoint=self._request.endpoint,
            outcome=outcome,
            reason=reason or ("stop" if outcome is Outcome.OK else outcome.value),
            prompt_tokens=self.prompt_tokens,
            cached_tokens=0,
            completion_tokens=0,
            duration_s=self._clock() - arrived,
            queue_s=queued,
            prefill_s=None,
            decode_s=None,
            time_to_first_token=None,
            token_gaps=(),
            generates=False,
            traceparent=self._request.traceparent,
        )


class EncodingService(Service[EncodingRequest, Encoding]):
    """As CompletionService, for what is not generated: the same models' places, leases, turns and
    observers. `turns` says what holds now."""

    def __init__(
        self,
        locator: Locator,
        pool: Pool,
        observer: Observer,
        *,
        turns: Callable[[], Turns],
        clock: Clock,
    ) -> None:
        super().__init__(observer, clock)
        self._locator = locator
        self._pool = pool
        self._turns = turns

    async def _begin(self, request: EncodingRequest) -> Encoding:
        placement = request.placement
        info, where, _ = await self._locator.locate(placement, request.task)
        turns = self._turns()
        holder, weight = turns.of(request.client)
        work = Work(
            request.inputs,
            query=request.query,
            truncate=request.truncate,
            dimensions=request.dimensions,
            client=holder,
            weight=weight,
            field=request.field,
        )
        lease = self._pool.acquire(info, where, client=holder, keep_alive_s=placement.keep_alive)
        encoding = Encoding(info, lease, request, clock=self._clock, report=self._observer.observe)
        deadline = request.arrived + turns.timeout_s
        run = self._run(encoding, work, lease, deadline)
        encoding.task = asyncio.create_task(run, name="encoding")

        def ended(task: asyncio.Task[None]) -> None:
            """Whatever became of it, even if it was cancelled before it ever ran."""
            lease.release()
            self._running.discard(encoding)
            encoding.end(task)

        self._running.add(encoding)
        encoding.task.add_done_callback(ended)
        return encoding

    async def _run(self, encoding: Encoding, work: Work, lease: Lease, deadline: float) -> None:
        """`deadline`, on the service's clock, is for its beginning."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())) as patience:
                worker = await lease.worker()

                def deliver(event: Begun | Encoded) -> None:
                    encoding.take(event)
                    if isinstance(event, Begun):
                        patience.reschedule(None)

                await worker.encode(work, deliver)
        except TimeoutError:
            late = f"{encoding.model} did not begin with this request within pool.queue_timeout_s"
            raise errors.NoCapacity(late) from None


def _outcome(error: BaseException | None, *, cancelled: bool) -> Outcome:
    if cancelled:
        return Outcome.CANCELLED
    if isinstance(error, errors.Retryable):
        return Outcome.REJECTED
    return Outcome.ERROR if error else Outcome.OK
