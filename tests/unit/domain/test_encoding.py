"""What is encoded, on its way through the house, with fakes at both ends."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
import pytest

from lemonade_serve import errors
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.domain.encoding import (
    Encoding,
    EncodingRequest,
    EncodingService,
    Placement,
    Task,
    TextPrompt,
)
from lemonade_serve.domain.events import Outcome, RequestFinished, RequestRefused
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.residency.policy import Bounds
from lemonade_serve.domain.turns import Turns
from tests.fakes import (
    FakeCatalog,
    FakeClock,
    FakeLauncher,
    FakeWorker,
    RecordingObserver,
    asynchronous,
    checkpoint,
    encoder,
    new_pool,
    until,
)


class House:
    """A service over fakes, and three models: one for each task."""

    def __init__(self, *, default_model: str | None = None, timeout_s: float = 1e6, **pool: Any):
        self.launcher = FakeLauncher()
        self.observer = RecordingObserver()
        clock = FakeClock()
        self.pool = new_pool(self.launcher, self.observer, clock=clock, **pool)
        catalog = FakeCatalog(checkpoint("small"), encoder(), encoder("ranker", "rerank"))
        self.locator = Locator(catalog, self.pool, self.observer, default_model=default_model)
        turns = Turns(timeout_s=timeout_s, client_weights={"ann": 3.0})
        self.service = EncodingService(
            self.locator, self.pool, self.observer, turns=lambda: turns, clock=clock
        )

    @property
    def worker(self) -> FakeWorker:
        return self.launcher.workers[-1]

    async def begin(self, *texts: str, **said: Any) -> Encoding:
        return await self.service.begin(request(*texts, **said))

    async def encode(self, *texts: str, **said: Any) -> list[tuple[float, ...]]:
        values = await (await self.begin(*texts, **said)).values()
        return [struct.unpack(f"<{len(value) // 4}f", value) for value in values]

    def finished(self) -> RequestFinished:
        (event,) = [e for e in self.observer.events if isinstance(e, RequestFinished)]
        return event


def request(
    *texts: str, model: str | None = "embedder", task: Task = Task.EMBEDDING, **said: Any
) -> EncodingRequest:
    usual = {"endpoint": "embeddings", "client": "ann/web", "field": "input", "arrived": 1000.0}
    return EncodingRequest(
        task=task,
        inputs=tuple(map(TextPrompt, texts)),
        placement=Placement(model=model),
        **{**usual, **said},
    )


@asynchronous
async def test_each_input_has_its_values_in_the_order_of_the_request() -> None:
    house = House()
    assert await house.encode("a", "b c", "d e f") == [(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)]


@asynchronous
async def test_the_worker_hears_all_that_the_request_said() -> None:
    house = House()
    said = {"query": "q", "truncate": True, "dimensions": 3, "field": "documents"}
    await house.encode("a", model="ranker", task=Task.RERANK, **said)
    (work,) = house.worker.encodings
    assert (work.query, work.truncate, work.dimensions, work.field) == ("q", True, 3, "documents")
    assert (work.client, work.weight) == ("ann", 3.0)


@asynchronous
async def test_it_is_counted_before_whoever_asked_has_it_and_its_lease_is_back() -> None:
    house = House()
    await house.encode("a", "b c")
    event = house.finished()
    assert (event.model, event.device, event.dtype) == ("embedder", "cpu", "fp32")
    assert (event.endpoint, event.outcome, event.reason) == ("embeddings", Outcome.OK, "stop")
    assert (event.prompt_tokens, event.completion_tokens, event.generates) == (3, 0, False)
    assert event.queue_s is not None
    assert event.prefill_s is event.decode_s is event.time_to_first_token is None
    assert house.pool.slots()[0].running == house.pool.slots()[0].waiting == 0


@asynchronous
async def test_a_model_of_another_task_is_refused_and_says_what_it_is_for() -> None:
    house = House()
    for model, task, words in (
        ("small", Task.EMBEDDING, "small generates text"),
        ("ranker", Task.EMBEDDING, "ranker is a reranker: ask it on /v1/rerank"),
        ("embedder", Task.RERANK, "embedder is an embedding model"),
    ):
        with pytest.raises(errors.WrongTask, match=words) as raised:
            await house.begin("a", model=model, task=task)
        assert raised.value.param == "model"
    with pytest.raises(errors.WrongTask):
        await house.locator.locate(Placement(model="embedder"), Task.GENERATION)
    refused = [e for e in house.observer.events if isinstance(e, RequestRefused)]
    assert [event.reason for event in refused] == ["wrong_task"] * 3
    assert not house.launcher.launches


@asynchronous
async def test_without_a_name_the_model_used_last_that_is_made_for_it_is_meant() -> None:
    house = House(default_model="ranker")
    with pytest.raises(errors.WrongTask, match="ranker"):
        await house.begin("a", model=None)
    await house.encode("a")
    await house.encode("a", model="ranker", task=Task.RERANK)
    assert (await house.begin("a", model=None)).model == "embedder"
    info, *_ = await house.locator.locate(Placement())
    assert info.task is not Task.GENERATION


@asynchronous
async def test_one_that_is_given_up_is_cancelled_in_its_worker_too() -> None:
    house = House()
    await house.encode("a")
    house.observer.events.clear()
    house.worker.hush()
    encoding = await house.begin("a")
    waiting = asyncio.create_task(encoding.values())
    await until(lambda: len(house.worker.encodings) == 2)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert house.worker.closed == 2
    assert house.finished().outcome is Outcome.CANCELLED


@asynchronous
async def test_what_the_worker_says_is_wrong_is_raised_and_counted() -> None:
    house = House()
    await house.encode("a")
    house.observer.events.clear()
    house.worker.break_with(errors.ContextLengthExceeded("too long", param="input"))
    with pytest.raises(errors.ContextLengthExceeded, match="too long"):
        await house.encode("a")
    assert (house.finished().outcome, house.finished().reason) == (
        Outcome.ERROR,
        "context_length_exceeded",
    )


@asynchronous
async def test_one_that_does_not_begin_in_time_may_be_sent_again() -> None:
    house = House(timeout_s=0.0)
    house.launcher.hold()
    with pytest.raises(errors.NoCapacity, match="did not begin"):
        await house.encode("a")
    assert house.finished().outcome is Outcome.REJECTED


@asynchronous
async def test_while_draining_what_has_not_begun_is_given_up_and_what_runs_goes_on() -> None:
    house = House()
    await house.encode("a")
    house.worker.hush()
    running = await house.begin("a")
    await until(lambda: running.started_at is not None)
    house.launcher.hold()
    waiting = await house.begin("a", model="ranker", task=Task.RERANK)
    house.service.give_up_waiting(errors.Draining())
    with pytest.raises(errors.Draining):
        await waiting.values()
    house.worker.speak()
    assert len(await running.values()) == 1
    outcomes = [e.outcome for e in house.observer.events if isinstance(e, RequestFinished)]
    assert outcomes == [Outcome.OK, Outcome.REJECTED, Outcome.OK]


@asynchronous
async def test_aborting_ends_what_runs_with_the_error() -> None:
    house = House()
    await house.encode("a")
    house.worker.hush()
    running = await house.begin("a")
    await until(lambda: running.started_at is not None)
    house.service.abort(errors.Draining())
    with pytest.raises(errors.Draining):
        await running.values()


@asynchronous
async def test_figures_tell_numbers_and_no_text() -> None:
    house = House()
    encoding = await house.begin("a b")
    await encoding.values()
    assert encoding.figures() == {
        "model": "embedder",
        "device": "cpu",
        "dtype": "fp32",
        "inputs": 1,
        "prompt_tokens": 2,
    }


@asynchronous
async def test_an_encoder_goes_where_the_cpus_provider_is_unless_a_device_is_named() -> None:
    room = {"max_models": 9, "memory_bytes": 1 << 40}
    budgets = {
        Device.NPU: DeviceBudget(execution_provider="vitis", **room),
        Device.CPU: DeviceBudget(execution_provider="cpu", **room),
    }
    house = House(budgets=budgets)
    _, where, _ = await house.locator.locate(Placement(model="embedder"))
    assert where == [Device.CPU]
    _, where, _ = await house.locator.locate(Placement(model="embedder", device="npu"))
    assert list(where) == [Device.NPU]
    _, where, _ = await house.locator.locate(Placement(model="small"))
    assert list(where) == [Device.NPU, Device.CPU]


def test_an_encoder_is_charged_for_its_batches_and_has_no_kv_cache() -> None:
    bounds = Bounds(sequence_slots=4, max_queue=1, max_client_queue=1, kv_cache_tokens=1024)
    info = encoder(memory_bytes=1000)
    assert bounds.kv_tokens(info) == 0
    assert info.encoder is not None
    wide = encoder(
        memory_bytes=1000, encoder=msgspec.structs.replace(info.encoder, width=10, heads=2)
    )
    # three copies of 512 tokens' numbers, and of each one's attention to 256
    assert bounds.expected_bytes(wide) == 1000 + 3 * 4 * 512 * (10 + 2 * 256)
