"""Many requests over one socket to one worker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.device import Device, ExecutionProvider
from lemonade_serve.domain.events import BatchDecoded
from lemonade_serve.domain.ports import Observer
from lemonade_serve.protocol.messages import (
    Command,
    Events,
    Finished,
    FinishReason,
    ImportGguf,
    JobDone,
    Queued,
    Ready,
    Report,
    ResolvedParams,
    Started,
    TextPrompt,
    Token,
    TokensPrompt,
    Work,
)
from lemonade_serve.runtime.client import WorkerClient
from lemonade_serve.runtime.jobs import ProcessJobRunner
from lemonade_serve.runtime.lanes import Lanes
from lemonade_serve.runtime.launcher import ProcessLauncher
from lemonade_serve.settings import Worker as WorkerSettings
from tests.fakes import RecordingObserver, asynchronous, checkpoint, until
from tests.unit.runtime.conftest import Behave
from tests.unit.runtime.test_child import children

Event = Queued | Started | Token | Finished
SMALL = checkpoint("small")


async def launch(behave: Behave, behaviour: str = "worker", **bounds: Any) -> WorkerClient:
    behave(behaviour)
    with launcher(**bounds) as launching:
        return await launching.launch(SMALL, Device.CPU)


def launcher(
    *, cpus: int = 1, observer: Observer | None = None, **bounds: float
) -> ProcessLauncher:
    said: dict[str, Any] = {"stop_timeout_s": 8.0, **bounds}
    settings = WorkerSettings(**said)
    return ProcessLauncher(
        settings,
        threads=1,
        lanes=Lanes(cpus=cpus, threads=1),
        execution_providers={Device.CPU: ExecutionProvider(name="cpu", hardware="cpu")},
        observer=observer or RecordingObserver(),
    )


def work(text: str, n: int = 1) -> Work:
    return Work(TextPrompt(text), ResolvedParams(), n)


async def ask(worker: WorkerClient, text: str, n: int = 1) -> list[Event]:
    heard: list[Event] = []
    await worker.generate(work(text, n), heard.append)
    return heard


async def ask_for_ever(worker: WorkerClient) -> asyncio.Task[list[Event]]:
    """A request that has begun and says nothing more."""
    began = asyncio.Event()
    asking = worker.generate(work("hang"), lambda _: began.set())
    task = asyncio.create_task(asking)
    await began.wait()
    return task  # type: ignore[return-value]


@asynchronous
async def test_a_request_hears_its_events_in_order(behave: Behave) -> None:
    worker = await launch(behave)
    assert worker.ready.engine == "tiny"
    assert await ask(worker, "finish") == [
        Started(1, 2, 1, 1.0),
        Token(1, "one", 2.0),
        Token(1, " two", 3.0),
        Finished(1, "!", FinishReason.STOP),
    ]
    await worker.stop(errors.Draining())


@asynchronous
async def test_requests_hear_their_own_events_only(behave: Behave) -> None:
    worker = await launch(behave)
    heard = await asyncio.gather(*(ask(worker, text) for text in ("finish", "at once", "finish")))
    assert [{event.request for event in events} for events in heard] == [{1}, {2}, {3}]
    assert [len(events) for events in heard] == [4, 3, 4]
    await worker.stop(errors.Draining())


@asynchronous
async def test_what_the_worker_said_was_wrong_is_raised(behave: Behave) -> None:
    worker = await launch(behave)
    with pytest.raises(errors.ContextLengthExceeded, match="too long") as raised:
        await ask(worker, "fail")
    assert raised.value.param == "prompt"
    assert len(await ask(worker, "finish")) == 4
    await worker.stop(errors.Draining())


@asynchronous
async def test_giving_up_on_a_request_tells_the_worker(behave: Behave) -> None:
    worker = await launch(behave)
    await ask(worker, "finish")
    asking = await ask_for_ever(worker)
    asking.cancel()
    assert await worker.exited == "exit code 102"  # which is how it says: 2 was cancelled
    assert asking.cancelled()


@asynchronous
async def test_a_request_that_is_over_is_not_cancelled(behave: Behave) -> None:
    worker = await launch(behave)
    await ask(worker, "finish")
    with pytest.raises(errors.ContextLengthExceeded):
        await ask(worker, "fail")
    await worker.stop(errors.Draining())
    assert worker.exited.result() == "exit code 0"


@asynchronous
async def test_a_worker_that_dies_fails_all_its_requests(behave: Behave) -> None:
    worker = await launch(behave)
    asking = [await ask_for_ever(worker) for _ in range(2)]
    os.kill(worker.pid, signal.SIGKILL)
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(outcome, errors.WorkerLost)
        assert "killed by SIGKILL" in outcome.message
    assert worker.memory_bytes == 0


@asynchronous
async def test_the_exit_is_known_before_the_requests_hear_of_it(behave: Behave) -> None:
    worker = await launch(behave)
    order: list[str] = []
    worker.exited.add_done_callback(lambda _: order.append("exited"))
    asking = await ask_for_ever(worker)
    asking.add_done_callback(lambda _: order.append("failed"))
    with pytest.raises(errors.WorkerLost, match="exit code 7"):
        await ask(worker, "die")
    await asyncio.wait({asking})
    assert order == ["exited", "failed"]


@asynchronous
async def test_a_worker_that_is_gone_takes_no_request(behave: Behave) -> None:
    worker = await launch(behave)
    os.kill(worker.pid, signal.SIGKILL)
    await worker.exited
    with pytest.raises(errors.WorkerLost):
        await ask(worker, "finish")


@asynchronous
async def test_a_worker_that_talks_nonsense_is_hung_up_on(behave: Behave) -> None:
    worker = await launch(behave)
    with pytest.raises(errors.WorkerLost, match="malformed"):
        await ask(worker, "nonsense")
    assert children() == []


@asynchronous
async def test_a_request_that_cannot_be_sent_is_forgotten(behave: Behave) -> None:
    worker = await launch(behave)
    with pytest.raises(OverflowError):
        await worker.generate(Work(TokensPrompt((2**64,)), ResolvedParams()), lambda _: None)
    assert worker._requests == {}
    await worker.stop(errors.Draining())


class ScriptedChild:
    """A `Child` without a process: it says what a test says, and when."""

    pid = 1

    def __init__(self) -> None:
        self.heard: list[Command] = []

    def listen(self, listener: Callable[[Report | None], None]) -> None:
        self.say = listener

    def send(self, command: Command) -> None:
        self.heard.append(command)

    async def stop(self, timeout_s: float) -> str:
        return "exit code 0"

    def client(self, decoded: Callable[[int], None] = lambda _: None) -> WorkerClient:
        ready = Ready("tiny", "it is tiny", 0.0, 0)
        return WorkerClient(self, ready, stop_timeout_s=8, decoded=decoded)  # type: ignore[arg-type]


@asynchronous
async def test_a_request_may_finish_in_the_very_turn_in_which_it_is_given_up() -> None:
    child = ScriptedChild()
    worker = child.client()
    leaving = asyncio.create_task(ask(worker, "x"))
    await until(lambda: child.heard)
    leaving.cancel()
    child.say(Events((Finished(1, "", FinishReason.STOP),)))
    child.say(None)
    await worker.exited
    await asyncio.wait({leaving})
    assert leaving.cancelled()


@asynchronous
async def test_a_request_given_up_as_the_worker_dies_keeps_the_loss_from_nobody() -> None:
    child = ScriptedChild()
    worker = child.client()
    leaving, staying = (asyncio.create_task(ask(worker, "x")) for _ in range(2))
    await until(lambda: len(child.heard) == 2)
    child.say(None)
    leaving.cancel()
    with pytest.raises(errors.WorkerLost):
        await staying


@asynchronous
async def test_a_request_is_over_when_the_last_of_its_sequences_is() -> None:
    child = ScriptedChild()
    worker = child.client()
    asking = asyncio.create_task(ask(worker, "x", n=2))
    await until(lambda: child.heard)
    child.say(Events((Queued(1, 3), Started(1, 2, 0, 1.0), Token(1, "b", 2.0, 1))))
    child.say(Events((Finished(1, "", FinishReason.STOP, 1), Token(1, "a", 3.0, 0))))
    await asyncio.sleep(0)
    assert not asking.done()
    child.say(Events((Finished(1, "", FinishReason.LENGTH, 0),)))
    assert [type(event) for event in await asking] == [
        *(Queued, Started, Token, Finished, Token, Finished)
    ]
    assert len(child.heard) == 1  # and nothing is cancelled


@asynchronous
async def test_a_step_tells_how_many_sequences_it_gave_a_token() -> None:
    child, batches = ScriptedChild(), list[int]()
    worker = child.client(batches.append)
    asking = asyncio.create_task(ask(worker, "x"))
    await until(lambda: child.heard)
    assert worker.kv_tokens == 0
    child.say(Events((Started(1, 2, 0, 1.0),), batch=0, kv_tokens=2))
    child.say(Events((Token(1, "a", 2.0),), batch=3, kv_tokens=7))
    assert (batches, worker.kv_tokens) == ([3], 7)
    child.say(Events((Token(1, "b", 3.0),), batch=2, kv_tokens=5))
    assert (batches, worker.kv_tokens) == ([3, 2], 5)
    asking.cancel()
    await asyncio.wait({asking})
    assert worker.kv_tokens == 0  # nothing runs, whether or not the worker has said so


@asynchronous
async def test_the_batches_of_a_worker_are_observed_as_those_of_its_checkpoint(
    behave: Behave,
) -> None:
    behave("worker")
    observer = RecordingObserver()
    with launcher(observer=observer) as launching:
        worker = await launching.launch(SMALL, Device.CPU)
    await ask(worker, "batch of 5")
    assert observer.events == [BatchDecoded(model="small", device="cpu", dtype="int4", sequences=5)]
    await worker.stop(errors.Draining())


async def say(worker: WorkerClient, text: str) -> str:
    """The first word of its answer."""
    return next(event.text for event in await ask(worker, text) if isinstance(event, Token))


@pytest.mark.parametrize(("slots", "tokens"), [(1, 128), (2, 200)])
def test_a_worker_is_told_its_engine_and_how_large_its_kv_cache_is_of_use(
    behave: Behave, slots: int, tokens: int
) -> None:
    @asynchronous
    async def launched() -> None:
        worker = await launch(
            behave, sequence_slots=slots, kv_cache_tokens=200, engine="onnxruntime-genai"
        )
        assert await say(worker, "load") == f"{tokens} tokens for onnxruntime-genai"
        await worker.stop(errors.Draining())

    assert SMALL.context_length == 128
    launched()


class TestTurns:
    """The lanes of workers, and the file that they lock bytes of."""

    @asynchronous
    async def test_a_worker_is_told_its_lane_which_is_free_again_when_it_is_gone(
        self, behave: Behave
    ) -> None:
        behave("worker")
        with launcher(cpus=2) as launching:
            workers = [await launching.launch(SMALL, Device.CPU) for _ in range(2)]
            assert [await say(worker, "lane") for worker in workers] == ["0", "1"]
            await workers[1].stop(errors.Draining())
            workers[1] = await launching.launch(SMALL, Device.CPU)
            assert await say(workers[1], "lane") == "1"
        for worker in workers:
            await worker.stop(errors.Draining())

    @asynchronous
    async def test_a_launch_that_failed_has_no_lane(self, behave: Behave) -> None:
        with launcher(cpus=2) as launching:
            for behaviour in ("dies", "will_not_load"):
                behave(behaviour)
                with pytest.raises(errors.ModelLoadError):
                    await launching.launch(SMALL, Device.CPU)
            behave("worker")
            workers = [await launching.launch(SMALL, Device.CPU) for _ in range(2)]
        assert [await say(worker, "lane") for worker in workers] == ["0", "1"]
        for worker in workers:
            await worker.stop(errors.Draining())

    @asynchronous
    async def test_workers_of_a_lane_take_turns_and_a_killed_ones_turn_is_over(
        self, behave: Behave
    ) -> None:
        behave("worker")
        with launcher() as launching:
            first, second = [await launching.launch(SMALL, Device.CPU) for _ in range(2)]
        assert await say(first, "take a turn") == "my turn"
        assert await say(second, "take a turn") == "another's turn"
        os.kill(first.pid, signal.SIGKILL)
        await first.exited
        assert await say(second, "take a turn") == "my turn"
        await second.stop(errors.Draining())

    @asynchronous
    async def test_workers_of_two_lanes_compute_at_once(self, behave: Behave) -> None:
        behave("worker")
        with launcher(cpus=2) as launching:
            workers = [await launching.launch(SMALL, Device.CPU) for _ in range(2)]
        for worker in workers:
            assert await say(worker, "take a turn") == "my turn"
        for worker in workers:
            await worker.stop(errors.Draining())

    def test_the_file_is_gone_with_the_launcher(self) -> None:
        before = os.listdir("/proc/self/fd")  # noqa: PTH208
        launcher().close()
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


@asynchronous
async def test_a_frame_that_does_not_belong_here_hurts_nobody(behave: Behave) -> None:
    worker = await launch(behave)
    assert len(await ask(worker, "rude")) == 2
    await worker.stop(errors.Draining())


@asynchronous
async def test_stopping_ends_requests_with_the_cause(behave: Behave) -> None:
    worker = await launch(behave)
    asking = await ask_for_ever(worker)
    await worker.stop(errors.Unavailable("it was unloaded"))
    assert worker.exited.done()
    with pytest.raises(errors.Unavailable, match="it was unloaded"):
        await asking
    assert children() == []


@asynchronous
async def test_a_worker_that_is_there_has_a_size(behave: Behave) -> None:
    worker = await launch(behave)
    assert worker.memory_bytes > 1 << 20
    await worker.stop(errors.Draining())


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("dies", "no worker for small: .*exit code 3"),
        ("nonsense", "no worker for small: .*malformed"),
        ("will_not_load", "small: the file is cut"),
        ("dies_loading", "died while loading: exit code 9"),
        ("nonsense_loading", "died while loading: .*malformed"),
        ("rude_loading", "the worker sent Progress"),
    ],
)
def test_a_load_that_does_not_go_well_is_an_error_and_leaves_no_process(
    behave: Behave, behaviour: str, says: str
) -> None:
    with pytest.raises(errors.ModelLoadError, match=says):
        asyncio.run(launch(behave, behaviour))
    assert children() == []


def test_a_load_that_takes_too_long_is_stopped(behave: Behave) -> None:
    with pytest.raises(errors.ModelLoadError, match=r"did not load within 0\.05 s"):
        asyncio.run(launch(behave, "slow_to_load", load_timeout_s=0.05))
    assert children() == []


@asynchronous
async def test_a_load_that_nobody_wants_any_more_is_stopped(behave: Behave) -> None:
    loading = asyncio.create_task(launch(behave, "slow_to_load"))
    while not children():  # noqa: ASYNC110, the child's own doing
        await asyncio.sleep(0.001)
    loading.cancel()
    await asyncio.wait({loading})
    assert loading.cancelled()
    assert children() == []


class TestJobs:
    async def run(self, behave: Behave, source: str, behaviour: str = "job") -> list[object]:
        behave(behaviour)
        runner = ProcessJobRunner(timeout_s=8, handshake_timeout_s=8, stop_timeout_s=8)
        said: list[object] = []
        job = ImportGguf(source, "/into", "auto")
        said.append(await runner.run(job, lambda stage, done: said.append((stage, done))))
        return said

    @asynchronous
    async def test_a_job_tells_of_its_progress_and_its_end(self, behave: Behave) -> None:
        assert await self.run(behave, "fine") == [("reading", 0.5), JobDone("tiny", "int4")]
        assert children() == []

    @pytest.mark.parametrize(
        ("source", "behaviour", "error", "says"),
        [
            ("unsupported", "job", errors.UnsupportedModel, "no such architecture"),
            ("dies", "job", errors.JobFailed, "process died: exit code 5"),
            ("nonsense", "job", errors.JobFailed, "process died: .*malformed"),
            ("", "dies", errors.JobFailed, "did not start: .*exit code 3"),
            ("", "outdated", errors.JobFailed, "did not start"),
        ],
    )
    def test_a_job_that_fails_says_why_and_leaves_no_process(
        self, behave: Behave, source: str, behaviour: str, error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says):
            asyncio.run(self.run(behave, source, behaviour))
        assert children() == []

    @asynchronous
    async def test_a_job_that_takes_too_long_is_ended(self, behave: Behave) -> None:
        behave("job")
        runner = ProcessJobRunner(timeout_s=0.5, handshake_timeout_s=8, stop_timeout_s=8)
        with pytest.raises(errors.JobFailed, match=r"over 0\.5 s"):
            await runner.run(ImportGguf("slow", "/into", "auto"), lambda stage, done: None)
        assert children() == []

    @asynchronous
    async def test_a_job_that_nobody_wants_any_more_leaves_no_process(self, behave: Behave) -> None:
        behave("job")
        began = asyncio.Event()
        runner = ProcessJobRunner(timeout_s=8, handshake_timeout_s=8, stop_timeout_s=8)
        working = asyncio.create_task(
            runner.run(ImportGguf("slow", "/into", "auto"), lambda stage, done: began.set())
        )
        await began.wait()
        working.cancel()
        await asyncio.wait({working})
        assert working.cancelled()
        assert children() == []
