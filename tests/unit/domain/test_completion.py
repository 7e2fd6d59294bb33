"""The one way through the house, with fakes at both ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.completion import (
    CompletionRequest,
    CompletionService,
    Finished,
    FinishReason,
    Generation,
    Placement,
    TextPrompt,
    Token,
)
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.sampling import Options
from lemonade_serve.protocol.messages import Started
from tests.fakes import (
    FakeCatalog,
    FakeClock,
    FakeLauncher,
    FakeWorker,
    RecordingObserver,
    asynchronous,
    checkpoint,
    new_generation,
    until,
)

FOREVER = 10**9
SECRET = "nobody may log this"  # noqa: S105


class House:
    """A service over fakes."""

    def __init__(
        self,
        *infos: CheckpointInfo,
        default_model: str | None = None,
        devices: tuple[Device, ...] = (Device.CPU,),
        max_requests: int = 4,
    ) -> None:
        self.launcher = FakeLauncher("so", " it", " goes")
        self.pool = Pool(
            self.launcher,
            RecordingObserver(),
            max_requests=max_requests,
            unload_timeout_s=60.0,
            clock=FakeClock(),
        )
        self.service = CompletionService(
            FakeCatalog(*(infos or (checkpoint("small"), checkpoint("large")))),
            self.pool,
            devices=devices,
            default_model=default_model,
            clock=FakeClock(),
        )

    @property
    def worker(self) -> FakeWorker:
        return self.launcher.workers[-1]

    @property
    def leases(self) -> int:
        return sum(len(slot.leases) for slot in self.service.resident())

    async def begin(self, model: str | None = "small", **options: Any) -> Generation:
        return await self.service.begin(
            CompletionRequest(
                prompt=TextPrompt(SECRET),
                options=Options(**{"max_length": 3, **options}),
                placement=Placement(model=model),
                arrived=self.service.clock(),
            )
        )


async def text_of(generation: Generation) -> str:
    pieces = []
    while not isinstance(event := await generation.next(), Finished):
        pieces.append(event.text)
    return "".join(pieces) + event.text


@asynchronous
async def test_a_request_is_answered_token_by_token() -> None:
    generation = await House().begin()
    events = [await generation.next() for _ in range(4)]
    assert [event.text for event in events] == ["so", " it", " goes", ""]
    assert isinstance(events[-1], Finished)
    assert (generation.finish_reason, generation.reason) == (FinishReason.LENGTH, "length")
    assert (generation.prompt_tokens, generation.completion_tokens) == (4, 3)


@asynchronous
async def test_the_parameters_reach_the_worker_resolved() -> None:
    house = House()
    await text_of(await house.begin(temperature=0.25, stop="x"))
    (params,) = house.worker.params
    assert (params.temperature, params.stop, params.max_length) == (0.25, ("x",), 3)
    assert params.top_k == 50
    assert house.worker.prompts == [TextPrompt(SECRET)]


@asynchronous
async def test_a_lease_is_held_until_the_answer_is_complete() -> None:
    house = House()
    await house.service.load(Placement(model="small"))
    house.worker.hush()
    generation = await house.begin()
    await house.worker.started.wait()
    assert house.leases == 1
    house.worker.speak()
    await text_of(generation)
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.leases == 0


@asynchronous
async def test_the_model_left_out_means_the_one_used_last() -> None:
    house = House(default_model="small")
    await text_of(await house.begin("large"))
    generation = await house.begin(None)
    assert generation.model == "large"
    await text_of(generation)


@asynchronous
async def test_the_model_left_out_means_the_default_one_when_none_is_resident() -> None:
    generation = await House(default_model="large").begin(None)
    assert generation.model == "large"
    await text_of(generation)


@asynchronous
async def test_a_model_that_is_leaving_is_not_the_one_used_last() -> None:
    house = House(default_model="small")
    await text_of(await house.begin("large"))
    house.worker.hush()
    running = await house.begin("large")
    unloading = asyncio.create_task(house.service.unload())
    await until(lambda: house.service.resident()[0].draining)
    generation = await house.begin(None)
    assert generation.model == "small"
    house.launcher.workers[0].speak()
    await text_of(generation)
    await text_of(running)
    await unloading


@asynchronous
async def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="no model is named") as raised:
        await House().begin(None)
    assert raised.value.param == "model"


@pytest.mark.parametrize(
    ("placement", "error"),
    [
        (Placement(model="nobody"), errors.ModelNotFound),
        (Placement(model="small", dtype="fp32"), errors.DeviceUnavailable),
        (Placement(model="small", device="npu"), errors.DeviceUnavailable),
        (Placement(model="small", cache_dir="/etc"), errors.NotAllowed),
    ],
)
def test_what_is_wrong_before_the_load_is_said_at_once(
    placement: Placement, error: type[errors.LemonadeError]
) -> None:
    async def begin() -> None:
        house = House()
        request = CompletionRequest(
            prompt=TextPrompt("x"), options=Options(), placement=placement, arrived=0.0
        )
        with pytest.raises(error):
            await house.service.begin(request)
        assert house.launcher.launches == []

    asyncio.run(begin())


@asynchronous
async def test_parameters_that_contradict_each_other_load_nothing() -> None:
    house = House()
    with pytest.raises(errors.InvalidRequest):
        await house.begin(min_length=9)
    assert house.launcher.launches == []


@asynchronous
async def test_a_failed_load_comes_out_of_the_generation() -> None:
    house = House()
    house.launcher.failure = errors.ModelLoadError("the file is cut")
    generation = await house.begin()
    with pytest.raises(errors.ModelLoadError, match="the file is cut"):
        await generation.next()


@asynchronous
async def test_a_full_queue_comes_out_of_the_generation() -> None:
    house = House(max_requests=1)
    house.launcher.hold()
    first = await house.begin()
    await house.launcher.launching.wait()
    with pytest.raises(errors.QueueFull):
        await (await house.begin()).next()
    house.launcher.go()
    await text_of(first)


@asynchronous
async def test_a_lost_worker_comes_out_after_what_it_said() -> None:
    house = House()
    generation = await house.begin(max_length=FOREVER)
    assert (await generation.next()).text == "so"
    house.worker.die("killed by SIGKILL")
    with pytest.raises(errors.WorkerLost, match="SIGKILL"):
        while True:
            await generation.next()
    assert generation.reason == ""


@asynchronous
async def test_an_error_that_nobody_foresaw_reaches_the_reader() -> None:
    house = House()
    generation = await house.begin(max_length=FOREVER)
    await generation.next()
    house.worker.break_with(KeyError("?"))
    with pytest.raises(KeyError):
        while True:
            await generation.next()


@asynchronous
async def test_cancelling_gives_the_lease_back_and_closes_the_request() -> None:
    house = House()
    generation = await house.begin(max_length=FOREVER)
    await generation.next()
    generation.cancel()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.leases == 0
    assert house.worker.closed == 1
    assert len(house.launcher.alive) == 1


@asynchronous
async def test_cancelling_while_it_loads_does_not_stop_the_load() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.begin()
    await house.launcher.launching.wait()
    generation.cancel()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.leases == 0
    house.launcher.go()
    await text_of(await house.begin())
    assert len(house.launcher.launches) == 1


@asynchronous
async def test_cancelling_what_is_over_changes_nothing() -> None:
    generation = await House().begin()
    await text_of(generation)
    generation.cancel()
    assert generation.reason == "length"


@asynchronous
async def test_a_wait_that_times_out_loses_nothing() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.begin()
    with pytest.raises(TimeoutError):
        await generation.next(0.001)
    house.launcher.go()
    assert await text_of(generation) == "so it goes"


@asynchronous
async def test_what_is_there_is_read_without_waiting() -> None:
    generation = await House().begin()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert (await generation.next(0.0)).text == "so"


@asynchronous
async def test_aborting_ends_everything_with_the_error() -> None:
    house = House()
    generations = [await house.begin(model, max_length=FOREVER) for model in ("small", "large")]
    for generation in generations:
        await generation.next()
    house.service.abort(errors.Draining())
    for generation in generations:
        with pytest.raises(errors.Draining):
            while True:
                await generation.next()
        assert generation.task is not None
        await asyncio.wait({generation.task})
    assert house.leases == 0


@asynchronous
async def test_aborting_does_not_touch_what_is_over() -> None:
    house = House()
    generation = await house.begin()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    house.service.abort(errors.Draining())
    assert await text_of(generation) == "so it goes"


@asynchronous
async def test_loading_makes_resident_and_leases_nothing() -> None:
    house = House()
    info = await house.service.load(Placement(model="large"))
    assert info.name == "large"
    (slot,) = house.service.resident()
    assert (slot.info.name, slot.leases) == ("large", set())


@asynchronous
async def test_unloading_takes_a_device_by_its_name() -> None:
    house = House(devices=(Device.NPU, Device.CPU))
    await house.service.load(Placement(model="small"))
    await house.service.load(Placement(model="small", device="cpu"))
    assert await house.service.unload(device="npu") == 1
    assert [slot.device for slot in house.service.resident()] == [Device.CPU]
    with pytest.raises(errors.DeviceUnavailable):
        await house.service.unload(device="igpu")


@asynchronous
async def test_the_checkpoints_are_the_catalogues() -> None:
    assert [info.name for info in await House().service.checkpoints()] == ["large", "small"]


@asynchronous
async def test_figures_are_numbers_and_names_and_never_text() -> None:
    generation = await House().begin()
    await text_of(generation)
    figures = generation.figures()
    assert (figures["model"], figures["device"], figures["dtype"]) == ("small", "cpu", "int4")
    assert (figures["prompt_tokens"], figures["completion_tokens"]) == (4, 3)
    assert figures["finish_reason"] == "length"
    written = json.dumps(figures)
    assert not [word for word in ("so", "goes", *SECRET.split()) if f'"{word}' in written]


def timed(*events: Started | Token | Finished) -> Generation:
    generation = new_generation(arrived=100.0)
    for event in events:
        generation.take(event)
    return generation


def test_times_count_from_arrival() -> None:
    generation = timed(
        Started(1, 5, 2, 101.0),
        Token(1, "", 102.0),
        Token(1, "a", 103.0),
        Token(1, "b", 106.0),
        Finished(1, "", FinishReason.STOP),
    )
    figures = generation.figures()
    assert figures["time_to_first_token"] == 3.0
    assert figures["time_per_output_token"] == 2.0
    assert (figures["cached_tokens"], figures["completion_tokens"]) == (2, 3)


def test_figures_of_what_never_began_are_empty() -> None:
    figures = timed().figures()
    assert figures["time_to_first_token"] is None
    assert figures["time_per_output_token"] is None
    assert figures["finish_reason"] is None


def test_one_token_has_no_time_between_tokens() -> None:
    assert timed(Token(1, "a", 103.0)).figures()["time_per_output_token"] is None
