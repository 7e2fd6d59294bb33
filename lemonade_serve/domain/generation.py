"""One request under way: what its worker says, on the way to whoever reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import chain, pairwise

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.events import Outcome, RequestFinished
from lemonade_serve.domain.names import joined
from lemonade_serve.domain.placement import Placement
from lemonade_serve.domain.ports import Clock
from lemonade_serve.domain.residency.pool import Lease
from lemonade_serve.domain.sampling import Options
from lemonade_serve.protocol.messages import (
    ChatPrompt,
    Echo,
    Finished,
    FinishReason,
    Guidance,
    Prompt,
    Queued,
    Started,
    Token,
)


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Continue `prompt`, and each of `more_prompts`, in `n` ways; with `echo`, from its beginning
    on. `arrived` is when the request did, on the service's clock: times count from there.
    `endpoint` is its route's short name, for the metrics; `traceparent` is for traces."""

    prompt: Prompt
    more_prompts: tuple[Prompt, ...] = ()
    options: Options
    placement: Placement
    arrived: float
    endpoint: str
    client: str
    n: int = 1
    streaming: bool = False
    guidance: Guidance | None = None
    echo: bool = False
    traceparent: str = ""

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.prompt, *self.more_prompts

    @property
    def guided(self) -> bool:
        """Whether the answer has to be of a certain form."""
        calls = isinstance(self.prompt, ChatPrompt) and self.prompt.choice.required
        return calls or self.guidance is not None


class Generation:
    """Read `next` until it returns a `Finished` for each of the `n` sequences, those of the first
    prompt first; `cancel` when nobody reads any more. Both may be called from the event loop only,
    and `cancel` never waits.

    `report` is called once, with what became of it: before the reader gets the end, so that whoever
    has the answer finds it counted already.
    """

    def __init__(
        self,
        info: CheckpointInfo,
        lease: Lease,
        request: CompletionRequest,
        *,
        clock: Clock,
        report: Callable[[RequestFinished], None],
        adapter: str | None = None,
    ) -> None:
        self.model = joined(info.name, adapter)
        """What answers, adapter and all."""
        self._checkpoint = info.name
        self._adapter = adapter
        self.device = lease.device.value
        self.dtype = info.dtype
        self.endpoint = request.endpoint
        self.n = request.n * len(request.prompts)
        self.arrived = request.arrived
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.tool_format = ""
        """How this model writes calls of tools, if the request has some and it has begun."""
        self.engine = ""
        """What serves this model; empty until it is loaded."""
        self.token_times: list[list[float]] = [[] for _ in range(self.n)]
        """Of each sequence."""
        self.ahead: int | None = None
        """How many requests must begin first; None: one of its prompts has begun, or that is not
        known yet."""
        self.started_at: float | None = None
        self.first_text_at: float | None = None
        self.finish_reason: FinishReason | None = None
        """Of the sequence that ended last, when all have."""
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._lease = lease
        self._clock = clock
        self._report = report
        self._reported = False
        self._silent_until: float | None = None
        self._unfinished = self.n
        self._ways = request.n
        self._traceparent = request.traceparent
        self._loop = asyncio.get_running_loop()
        self._unread: deque[Token | Finished | Exception] = deque()
        self._reader: asyncio.Future[None] | None = None

    @property
    def reason(self) -> str:
        """Why it finished, in the wire's words; empty if it has not."""
        return self.finish_reason.value if self.finish_reason else ""

    @property
    def completion_tokens(self) -> int:
        return sum(map(len, self.token_times))

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

    def take(self, event: Queued | Started | Echo | Token | Finished, nth: int = 0) -> None:
        """What the worker said of the nth prompt, on its way to the reader."""
        first = nth * self._ways
        match event:
            case Queued():
                self.ahead = event.ahead if self.started_at is None else None
                return
            case Started():
                self._start(event)
                return
            case Echo():  # a reader need not know who said it
                for index in range(first, first + self._ways):
                    self.put(Token(event.request, event.text, 0.0, index, event.logprobs))
                return
        if first:
            event = msgspec.structs.replace(event, index=first + event.index)
        if isinstance(event, Token):
            self.token_times[event.index].append(event.at)
        if event.text and self.first_text_at is None:
            self.first_text_at = self._clock()
        if isinstance(event, Finished):
            self._finish(event)
        self.put(event)

    def put(self, event: Token | Finished | Exception) -> None:
        """The next thing that the reader gets; an error is the last."""
        if isinstance(event, Exception):
            self.error = self.error or event
            self.end()
        self._unread.append(event)
        if self._reader:
            _ring(self._reader)

    def end(self) -> None:
        """Nothing more will come: report it, once."""
        if not self._reported:
            self._reported = True
            self._report(self._finished())

    @property
    def prefill_s(self) -> float | None:
        """From the beginning of the first prompt to the first token, or without one to the end."""
        return None if self.started_at is None else _since(self.started_at, self._first_at)

    @property
    def decode_s(self) -> float | None:
        """From the first token to the last one of any sequence."""
        last = max((own[-1] for own in self.token_times if own), default=None)
        return None if self._first_at is None else _since(self._first_at, last)

    @property
    def _first_at(self) -> float | None:
        return min((own[0] for own in self.token_times if own), default=self._silent_until)

    def figures(self) -> dict[str, object]:
        """What a log line may say of it: numbers and names, never text. Times in seconds."""
        finished = self._finished()
        return {
            "model": self._checkpoint,
            **({"adapter": self._adapter} if self._adapter else {}),
            "device": self.device,
            "dtype": self.dtype,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "time_to_first_token": _rounded(finished.time_to_first_token),
            "time_per_output_token": _rounded(finished.time_per_output_token),
            "finish_reason": self.reason or None,
        }

    def _start(self, event: Started) -> None:
        self.prompt_tokens += event.prompt_tokens
        self.cached_tokens += event.cached_tokens
        self.tool_format = event.tool_format
        self.started_at = event.at if self.started_at is None else self.started_at
        self.ahead = None
        self._lease.running = True

    def _finish(self, event: Finished) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            self.finish_reason = event.reason
            if not self.completion_tokens:
                self._silent_until = self._clock()
            self.end()

    def _finished(self) -> RequestFinished:
        times, started, now = self.token_times, self.started_at, self._clock()
        return RequestFinished(
            model=self._checkpoint,
            adapter=self._adapter,
            device=self.device,
            dtype=self.dtype,
            endpoint=self.endpoint,
            outcome=self._outcome(),
            reason=self.reason or getattr(self.error, "code", "") or "cancelled",
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            duration_s=now - self.arrived,
            queue_s=_since(self.arrived, started),
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            time_to_first_token=_since(self.arrived, self.first_text_at),
            token_gaps=tuple(b - a for a, b in chain.from_iterable(map(pairwise, times))),
            traceparent=self._traceparent,
        )

    def _outcome(self) -> Outcome:
        if self.finish_reason:
            return Outcome.OK
        if isinstance(self.error, errors.Retryable):
            return Outcome.REJECTED
        return Outcome.ERROR if self.error else Outcome.CANCELLED


def _ring(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)


def _since(earlier: float, later: float | None) -> float | None:
    return None if later is None else max(0.0, later - earlier)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
