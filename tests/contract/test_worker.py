"""What every `Launcher` and its `Worker`s keep to, the fakes and the processes alike."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device, ExecutionProvider
from lemonade_serve.domain.ports import Launcher, Worker
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.protocol.messages import (
    Echo,
    Finished,
    FinishReason,
    Prompt,
    Queued,
    ResolvedParams,
    Started,
    TextPrompt,
    Token,
    TokensPrompt,
    Work,
)
from lemonade_serve.runtime.lanes import Lanes
from lemonade_serve.runtime.launcher import ProcessLauncher
from lemonade_serve.settings import Worker as WorkerSettings
from tests.daemon import MODEL
from tests.fakes import FakeLauncher, FakeWorker, RecordingObserver, asynchronous, checkpoint

Event = Queued | Started | Echo | Token | Finished
PROMPT = TextPrompt("Once upon a time")
FOREVER = 1500


class House(NamedTuple):
    """A launcher, something to launch, and how a worker of it is killed."""

    launcher: Launcher
    info: CheckpointInfo
    kill: Callable[[Worker], None]

    async def launch(self) -> Worker:
        return await self.launcher.launch(self.info, Device.CPU)


def kill_fake(worker: Worker) -> None:
    assert isinstance(worker, FakeWorker)
    worker.die("killed by SIGKILL")


def kill_process(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)


def processes() -> ProcessLauncher:
    """What starts workers on a CPU of their own."""
    return ProcessLauncher(
        WorkerSettings(),
        threads=1,
        lanes=Lanes(cpus=1, threads=1),
        execution_providers={Device.CPU: ExecutionProvider(name="cpu", hardware="cpu")},
        observer=RecordingObserver(),
    )


@pytest.fixture(params=["fake", "process"])
def house(request: pytest.FixtureRequest) -> Iterator[Callable[[], House]]:
    """Builds the house on the loop of the test."""
    if request.param == "fake":
        yield lambda: House(FakeLauncher(), checkpoint("small"), kill_fake)
        return
    cache: Path = request.getfixturevalue("cache_dir")
    info = DiskCatalog(cache).find(MODEL, "auto")
    with processes() as launcher:
        yield lambda: House(launcher, info, kill_process)


def work(
    max_length: int, prompt: Prompt = PROMPT, *, n: int = 1, echo: bool = False, **said: Any
) -> Work:
    usual = {"temperature": 0.0, "max_length": max_length, "ignore_eos": True}
    return Work(prompt, ResolvedParams(**{**usual, **said}), n, echo=echo)


async def begun(
    worker: Worker, heard: list[Event], max_length: int = FOREVER
) -> asyncio.Task[None]:
    """A request that has said something."""
    spoke = asyncio.Event()

    def deliver(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Token):
            spoke.set()

    async def generate() -> None:
        await worker.generate(work(max_length), deliver)

    task = asyncio.create_task(generate())
    await spoke.wait()
    return task


async def asked(worker: Worker, max_length: int = 3, **said: Any) -> list[Event]:
    heard: list[Event] = []
    await worker.generate(work(max_length, **said), heard.append)
    return heard


async def lost(work: Awaitable[object]) -> errors.LemonadeError:
    with pytest.raises(errors.LemonadeError) as raised:
        await work
    return raised.value


@asynchronous
async def test_a_request_is_started_spoken_and_finished(house: Callable[[], House]) -> None:
    worker = await house().launch()
    events = await asked(worker)
    assert [type(event) for event in events] == [Started, Token, Token, Token, Finished]
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert 0 <= started.cached_tokens < started.prompt_tokens
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH
    times = [event.at for event in events if isinstance(event, Started | Token)]
    assert times == sorted(times)
    assert worker.ready.load_s > 0
    assert worker.memory_bytes > 0
    assert worker.kv_tokens == 0  # it has finished
    await worker.stop(errors.Draining())


@asynchronous
async def test_an_echo_comes_before_the_first_token(house: Callable[[], House]) -> None:
    worker = await house().launch()
    for logprobs in (None, 0):
        events = await asked(worker, echo=True, n=2, logprobs=logprobs)
        echoes = [event for event in events if isinstance(event, Echo)]
        assert events[1 : len(echoes) + 1] == echoes
        assert "".join(echo.text for echo in echoes) == echoes[-1].text == PROMPT.text
        assert len(echoes) == (1 if logprobs is None else 4)
        assert [len(echo.logprobs) for echo in echoes] == [int(logprobs is not None)] * len(echoes)
    (first,) = echoes[0].logprobs
    assert math.isnan(first.logprob)
    only = [type(event) for event in await asked(worker, 0, echo=True)]
    assert only == [Started, Echo, Finished]
    await worker.stop(errors.Draining())


@asynchronous
async def test_a_worker_says_what_serves_it_and_why(house: Callable[[], House]) -> None:
    worker = await house().launch()
    assert worker.ready.engine
    assert worker.ready.engine_reason
    assert worker.ready.kv_cache_bytes >= 0
    await worker.stop(errors.Draining())


@asynchronous
async def test_the_sequences_of_a_request_finish_each_by_itself(
    house: Callable[[], House],
) -> None:
    worker = await house().launch()
    events = await asked(worker, n=3)
    assert [type(event) for event in events].count(Started) == 1
    for index in range(3):
        own = [e for e in events if isinstance(e, Token | Finished) and e.index == index]
        assert [type(event) for event in own] == [Token, Token, Token, Finished]
    texts = [
        "".join(e.text for e in events if isinstance(e, Token | Finished) and e.index == index)
        for index in range(3)
    ]
    assert texts == [texts[0]] * 3  # they are greedy
    await worker.stop(errors.Draining())


@asynchronous
async def test_log_probabilities_come_where_they_are_asked_for(house: Callable[[], House]) -> None:
    worker = await house().launch()
    for wanted, count in ((None, 0), (0, 1), (4, 5)):
        tokens = [e for e in await asked(worker, logprobs=wanted) if isinstance(e, Token)]
        assert [len(token.logprobs) for token in tokens] == [count] * 3
        if wanted:
            drawn, likely, *rest = tokens[0].logprobs
            assert (drawn.token, drawn.text) == (likely.token, likely.text)  # it is greedy
            assert 0 >= likely.logprob >= rest[0].logprob
    await worker.stop(errors.Draining())


@asynchronous
async def test_a_request_given_up_hurts_no_other(house: Callable[[], House]) -> None:
    worker = await house().launch()
    heard: list[Event] = []
    leaving = await begun(worker, heard)
    staying = asyncio.create_task(asked(worker, 8))
    leaving.cancel()
    await asyncio.wait({leaving})
    assert leaving.cancelled()
    count = len(heard)
    assert len(await staying) == 10
    assert len(heard) == count
    await worker.stop(errors.Draining())


@asynchronous
async def test_a_request_that_cannot_be_is_refused_and_hurts_no_other(
    house: Callable[[], House],
) -> None:
    worker = await house().launch()
    with pytest.raises(errors.InvalidRequest) as raised:
        await worker.generate(work(3, TokensPrompt((-1,))), lambda _: None)
    assert raised.value.param == "prompt"
    assert len(await asked(worker)) == 5
    await worker.stop(errors.Draining())


@asynchronous
async def test_a_worker_that_dies_loses_its_requests_and_takes_no_more(
    house: Callable[[], House],
) -> None:
    open_house = house()
    worker = await open_house.launch()
    asking = await begun(worker, [])
    order: list[str] = []
    worker.exited.add_done_callback(lambda _: order.append("exited"))
    asking.add_done_callback(lambda _: order.append("lost"))
    open_house.kill(worker)
    assert isinstance(await lost(asking), errors.WorkerLost)
    assert "killed by SIGKILL" in await worker.exited
    assert order == ["exited", "lost"]
    assert isinstance(await lost(asked(worker)), errors.WorkerLost)
    assert worker.memory_bytes == 0


@asynchronous
async def test_stopping_ends_requests_with_the_cause_and_the_worker_with_them(
    house: Callable[[], House],
) -> None:
    worker = await house().launch()
    asking = await begun(worker, [])
    await worker.stop(errors.Unavailable("it was unloaded"))
    assert worker.exited.done()
    assert (await lost(asking)).message == "it was unloaded"
    await worker.stop(errors.Draining())  # once more is nothing


@asynchronous
async def test_what_cannot_be_loaded_is_an_error(house: Callable[[], House]) -> None:
    with pytest.raises(errors.ModelLoadError):
        await house().launcher.launch(checkpoint("broken", path=Path("/")), Device.CPU)
