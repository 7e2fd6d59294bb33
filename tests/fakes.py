"""The ports and the engine, scripted: as real as their contracts (`tests/contract`) make them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import struct
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo, choose
from lemonade_serve.domain.conversions import Conversions, ConversionTerms, Workshops
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.domain.events import Event
from lemonade_serve.domain.generation import CompletionRequest, Generation
from lemonade_serve.domain.placement import Placement
from lemonade_serve.domain.ports import Deliver, DeliverEncoded, Pin
from lemonade_serve.domain.residency.policy import Bounds
from lemonade_serve.domain.residency.pool import Lease, Pool
from lemonade_serve.domain.residency.slot import Key
from lemonade_serve.protocol.jobs import ConvertModel, Exporter, ImportGguf, JobDone
from lemonade_serve.protocol.messages import (
    Adapter,
    Begun,
    Echo,
    Encoded,
    Encoder,
    Encoding,
    Finished,
    FinishReason,
    Logprob,
    Prompt,
    Queued,
    Ready,
    ResolvedParams,
    Started,
    TextPrompt,
    Token,
    TokensPrompt,
    Work,
)
from lemonade_serve.settings.parameters import Options

DEADLINE_S = 10.0
"""Nothing here takes a second; what takes this long hangs."""

_P = ParamSpec("_P")


def asynchronous(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Runs a coroutine as a test, on a loop of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await test(*args, **kwargs)

        asyncio.run(in_time())

    return run


async def until(what: Callable[[], object]) -> None:
    """Lets everyone else go on until something is so."""
    while not what():  # noqa: ASYNC110, what is waited for has no event
        await asyncio.sleep(0)


class FakeClock:
    """Every look at it is a second later."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1000)

    def __call__(self) -> float:
        return float(next(self._seconds))


class RecordingObserver:
    """Keeps every event, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def observe(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    async def saw(self, kind: type[Event]) -> Event:
        """The first event of a kind."""
        while True:
            self._news.clear()
            for event in self.events:
                if isinstance(event, kind):
                    return event
            await self._news.wait()


class FakeWorker:
    """A `Worker` that says `words` over and over; `hush` makes it wait until `speak`.

    All sequences of a request say the same. Who is said to be `ahead` of a request is told to it
    before it is started.
    """

    def __init__(
        self, info: CheckpointInfo, *, pid: int, words: Sequence[str], kv_cache_bytes: int = 0
    ) -> None:
        self.pid = pid
        self.info = info
        self.ready = Ready("fake", "it is a fake", 0.5, kv_cache_bytes)
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.memory_bytes = 1 << 20
        self.kv_tokens = 0
        self.works: list[Work] = []
        self.encodings: list[Encoding] = []
        self.ahead: Sequence[int] = ()
        self.closed = 0
        """Requests that ended, however."""
        self.started = asyncio.Event()
        self._words = words
        self._cause: errors.LemonadeError | None = None
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._broken: tuple[Exception, int] | None = None

    @property
    def prompts(self) -> list[Prompt]:
        return [work.prompt for work in self.works]

    @property
    def params(self) -> list[ResolvedParams]:
        return [work.params for work in self.works]

    def hush(self) -> None:
        self._may_speak.clear()

    def speak(self) -> None:
        self._may_speak.set()

    def break_with(self, error: Exception, *, after: int = 0) -> None:
        """Every request fails with this, after so many tokens."""
        self._broken = (error, after)

    def die(self, reason: str = "killed by SIGKILL") -> None:
        if not self.exited.done():
            self.memory_bytes = 0
            self.exited.set_result(reason)
            self.speak()

    async def generate(self, work: Work, deliver: Deliver) -> None:
        if self.exited.done():
            raise self._loss()
        self.works.append(work)
        prompt_tokens = _length(work.prompt)
        try:
            for ahead in self.ahead:
                deliver(Queued(1, ahead))
            deliver(Started(1, prompt_tokens, 0, _now()))
            self.started.set()
            for echo in _echoes(work):
                deliver(echo)
            for n in range(work.params.max_length):
                await self._turn(n)
                for index in range(work.n):
                    deliver(self._say(n, index, work.params.logprobs))
            for index in range(work.n):
                deliver(Finished(1, "", FinishReason.LENGTH, index))
        finally:
            self.closed += 1

    async def encode(self, work: Encoding, deliver: DeliverEncoded) -> None:
        """The last input first. Its vector says how many words it has, and whether with a query; a
        score is the more, the fewer words there are."""
        if self.exited.done():
            raise self._loss()
        self.encodings.append(work)
        try:
            deliver(Begun(1, _now()))
            self.started.set()
            for index in reversed(range(len(work.inputs))):
                await self._turn(index)
                words = _length(work.inputs[index])
                told = (float(words), 0.5) if work.query is None else (1 / (1 + words),)
                values = struct.pack(f"<{len(told)}f", *told)
                deliver(Encoded(1, index, words, values))
        finally:
            self.closed += 1

    async def stop(self, cause: errors.LemonadeError) -> None:
        self._cause = self._cause or cause
        self.die("exit code 0")

    def _say(self, n: int, index: int, logprobs: int | None) -> Token:
        word = self._words[n % len(self._words)]
        drawn = () if logprobs is None else (0, *range(logprobs))  # itself, then the most likely
        told = tuple(Logprob(n + k, word.encode(), -0.5 - k) for k in drawn)
        return Token(1, word, _now(), index, told)

    async def _turn(self, said: int) -> None:
        await self._may_speak.wait()
        await asyncio.sleep(0)
        if self.exited.done():
            raise self._loss()
        if self._broken and said >= self._broken[1]:
            raise self._broken[0]

    def _loss(self) -> errors.LemonadeError:
        return self._cause or errors.WorkerLost(f"the model's worker died: {self.exited.result()}")


class FakeLauncher:
    """A `Launcher`: `hold` keeps loads from finishing until `go`; `failure` makes them fail."""

    def __init__(self, *words: str) -> None:
        self._words = words or ("so", " it", " goes")
        self.launches: list[tuple[CheckpointInfo, Device]] = []
        self.workers: list[FakeWorker] = []
        self.failure: Exception | None = None
        self.kv_cache_bytes = 0
        """What the next worker says that its KV cache may come to take."""
        self.cancelled = 0
        self.launching = asyncio.Event()
        """Set when a load has begun."""
        self._may_finish = asyncio.Event()
        self._may_finish.set()

    @property
    def alive(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if not worker.exited.done()]

    def hold(self) -> None:
        self._may_finish.clear()

    def go(self) -> None:
        self._may_finish.set()

    async def launch(self, info: CheckpointInfo, device: Device) -> FakeWorker:
        self.launches.append((info, device))
        self.launching.set()
        try:
            await self._may_finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure:
            raise self.failure
        if not info.path.name:
            raise errors.ModelLoadError(f"{info.name}: there is nothing to load")
        worker = FakeWorker(
            info,
            pid=4000 + len(self.workers),
            words=self._words,
            kv_cache_bytes=self.kv_cache_bytes,
        )
        self.workers.append(worker)
        return worker


class FakeCatalog:
    """A `CheckpointCatalog` of what it is given."""

    def __init__(self, *infos: CheckpointInfo) -> None:
        self._infos = infos

    def find(
        self, name: str, dtype: str, cache_dir: str | None, adapter: str | None = None
    ) -> CheckpointInfo:
        self._check(cache_dir)
        found = [info for info in self._infos if info.name == name]
        if not found:
            raise errors.ModelNotFound(f"there is no model {name!r}", param="model")
        return choose(dtype, found, adapter)

    def adapters(self, info: CheckpointInfo) -> Sequence[Adapter]:
        return next((one.adapters for one in self._infos if one.path == info.path), ())

    def list(self, cache_dir: str | None) -> Sequence[CheckpointInfo]:
        self._check(cache_dir)
        return sorted(self._infos, key=lambda info: info.name)

    def _check(self, cache_dir: str | None) -> None:
        if cache_dir is not None:
            raise errors.NotAllowed("no other directory is allowed", param="cache_dir")


class FakeJobRunner:
    """A `JobRunner` that writes one file, says so, and then does as told."""

    def __init__(
        self,
        *,
        name: str = "suggested",
        dtype: str = "int4",
        failure: BaseException | None = None,
    ) -> None:
        self._name = name
        self._dtype = dtype
        self._failure = failure
        self.jobs: list[ImportGguf] = []

    async def run(self, job: ImportGguf, progress: Callable[[str, float], None]) -> JobDone:
        self.jobs.append(job)
        _write(Path(job.into))
        progress("writing", 0.5)
        if self._failure:
            raise self._failure
        return JobDone(self._name, self._dtype)


class FakeConverter(FakeJobRunner):
    """A `Converter` that makes what a FakeJobRunner does; it lacks what is `missing`."""

    def __init__(self, *missing: str, **told: Any) -> None:
        super().__init__(**told)
        self._missing = missing
        self.conversions: list[ConvertModel] = []

    async def exporter(self, *, encoders: bool) -> Exporter:
        return Exporter((), self._missing)

    async def convert(self, job: ConvertModel, progress: Callable[[str, float], None]) -> JobDone:
        self.conversions.append(job)
        await self.run(ImportGguf(job.source, job.into, job.recipe.dtype), progress)
        return JobDone(Path(job.source).name, job.recipe.dtype)


CONVERSION_TERMS = ConversionTerms(
    algorithm="k_quant",
    block_size=32,
    threads=1,
    memory_limit=1 << 30,
    keep_free=7,
    max_perplexity_ratio=2.0,
    min_cosine=0.9,
    max_score_error=0.1,
    python="/its/python",
)


def conversions(converter: FakeConverter | None = None, *, encoders: bool = False) -> Conversions:
    """By default there is nothing to convert with."""
    terms = msgspec.structs.replace(CONVERSION_TERMS, encoders=encoders)
    return Conversions(converter or FakeConverter("torch"), terms, asyncio.Lock())


def workshops(converter: FakeConverter | None = None) -> Workshops:
    return Workshops(conversions(converter), conversions(converter, encoders=True))


def checkpoint(name: str = "small", dtype: str = "int4", **fields: Any) -> CheckpointInfo:
    """Some checkpoint; only what a test is about need be said."""
    known = {
        "path": Path("/cache", name, dtype),
        "architecture": "llama",
        "context_length": 128,
        "bytes": 1000,
        "memory_bytes": 1 << 20,
        "kv_bytes_per_token": 0,
        "modified_s": 1_700_000_000,
    }
    return CheckpointInfo(name=name, dtype=dtype, **{**known, **fields})


def encoder(name: str = "embedder", task: Any = "embedding", **fields: Any) -> CheckpointInfo:
    """As `checkpoint`, of what encodes."""
    made = Encoder(task, "onnx/model.onnx", 256)
    return checkpoint(name, "fp32", **{"encoder": made, "context_length": 256, **fields})


class FakePinStore:
    """A `PinStore` that forgets with the test; `failure` makes it unable to keep anything."""

    def __init__(self, *pins: Pin) -> None:
        self.pins = frozenset(pins)
        self.failure: errors.LemonadeError | None = None

    def load(self) -> frozenset[Pin]:
        return self.pins

    def save(self, pins: frozenset[Pin]) -> None:
        if self.failure:
            raise self.failure
        self.pins = pins


ROOMY = {"sequence_slots": 2, "max_queue": 2, "max_client_queue": 2, "kv_cache_tokens": 1024}
"""Bounds that four requests for a model keep to."""


def new_pool(
    launcher: FakeLauncher | None = None,
    observer: RecordingObserver | None = None,
    *,
    clock: Callable[[], float] | None = None,
    budgets: dict[Device, DeviceBudget] | None = None,
    **bounds: Any,
) -> Pool:
    """A pool with plenty of room on the CPU."""
    plenty = DeviceBudget(execution_provider="cpu", max_models=9, memory_bytes=1 << 40)
    return Pool(
        launcher or FakeLauncher(),
        observer or RecordingObserver(),
        budgets=budgets or {Device.CPU: plenty},
        bounds=Bounds(**{**ROOMY, **bounds}),
        clock=clock or FakeClock(),
    )


def new_generation(
    *, n: int = 1, arrived: float = 0.0, clock: Callable[[], float] | None = None
) -> Generation:
    """One that nobody reads: what a dialect or a log line makes of it is all that counts."""

    async def make() -> Generation:
        info = checkpoint()
        lease = Lease(new_pool(), 1, Key(info.path, Device.CPU), streaming=False)
        request = CompletionRequest(
            prompt=TextPrompt("x"),
            options=Options(),
            placement=Placement(),
            arrived=arrived,
            endpoint="completions",
            client="ann",
            n=n,
        )
        return Generation(
            info,
            lease,
            request,
            clock=clock or FakeClock(),
            report=RecordingObserver().observe,
        )

    return asyncio.run(make())


def _echoes(work: Work) -> list[Echo]:
    """A prompt of words; each of them is a token."""
    if not (work.echo and isinstance(work.prompt, TextPrompt)):
        return []
    words = work.prompt.text.split(" ")
    if work.params.logprobs is None:
        return [Echo(1, work.prompt.text)]
    told = [(Logprob(n, word.encode(), -0.5 if n else math.nan),) for n, word in enumerate(words)]
    return [*(Echo(1, "", one) for one in told[:-1]), Echo(1, work.prompt.text, told[-1])]


def _length(prompt: Prompt) -> int:
    match prompt:
        case TokensPrompt(tokens):
            if any(token < 0 for token in tokens):
                raise errors.InvalidRequest("token ids are not negative", param="prompt")
            return len(tokens)
        case TextPrompt(text):
            return len(text.split())
        case _:
            return sum(len(message.content.split()) for message in prompt.messages)


def _write(directory: Path) -> None:
    (directory / "genai_config.json").write_text("{}")


def _now() -> float:
    return asyncio.get_running_loop().time()
