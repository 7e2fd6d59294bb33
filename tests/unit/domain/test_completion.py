"""The one way through the house, with fakes at both ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

import msgspec
import pytest

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.completion import (
    CompletionRequest,
    CompletionService,
    Finished,
    FinishReason,
    Generation,
    Placement,
    TextPrompt,
    Token,
    TokensPrompt,
)
from lemonade_serve.domain.events import Event, Outcome, RequestFinished, RequestRefused
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.sampling import Options
from lemonade_serve.domain.turns import Turns
from lemonade_serve.protocol.messages import Echo, Queued, Started
from lemonade_serve.store.memory import MemoryParamsStore
from tests.fakes import (
    FakeCatalog,
    FakeClock,
    FakeLauncher,
    FakeWorker,
    RecordingObserver,
    asynchronous,
    checkpoint,
    new_generation,
    new_pool,
    until,
)

_E = TypeVar("_E", bound=Event)
FOREVER = 10**9
SECRET = "nobody may log this"  # noqa: S105


class House:
    """A service over fakes."""

    def __init__(
        self, *infos: CheckpointInfo, default_model: str | None = None, **pool: Any
    ) -> None:
        self.launcher = FakeLauncher("so", " it", " goes")
        self.observer = RecordingObserver()
        self.clock = FakeClock()
        self.pool = new_pool(self.launcher, self.observer, clock=self.clock, **pool)
        self.store = MemoryParamsStore(max_clients=9)
        catalog = FakeCatalog(*(infos or (checkpoint("small"), checkpoint("large"))))
        self.service = CompletionService(
            Locator(catalog, self.pool, self.observer, default_model=default_model),
            self.pool,
            ClientParams(self.store, Options(top_k=7)),
            self.observer,
            turns=Turns(timeout_s=1e6, client_weights={"ann": 3.0}),
            clock=self.clock,
        )

    @property
    def worker(self) -> FakeWorker:
        return self.launcher.workers[-1]

    @property
    def leases(self) -> int:
        return sum(slot.running + slot.waiting for slot in self.pool.slots())

    def told(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.observer.events if isinstance(event, kind)]

    def request(
        self, placement: Placement, *, client: str = "ann", n: int = 1, **options: Any
    ) -> CompletionRequest:
        return CompletionRequest(
            prompt=TextPrompt(SECRET),
            options=Options(**{"max_length": 3, **options}),
            placement=placement,
            arrived=self.clock(),
            endpoint="completions",
            client=client,
            n=n,
        )

    async def begin(self, model: str | None = "small", **said: Any) -> Generation:
        return await self.service.begin(self.request(Placement(model=model), **said))


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
    assert (params.top_k, params.top_p) == (7, 0.95)
    assert house.worker.prompts == [TextPrompt(SECRET)]


@asynchronous
async def test_all_sequences_of_a_request_are_read_as_one() -> None:
    house = House()
    generation = await house.begin(n=2)
    events = [await generation.next() for _ in range(8)]
    assert [event.index for event in events if isinstance(event, Token)] == [0, 1, 0, 1, 0, 1]
    assert [event.index for event in events if isinstance(event, Finished)] == [0, 1]
    assert (generation.prompt_tokens, generation.completion_tokens) == (4, 6)
    assert [work.n for work in house.worker.works] == [2]
    (finished,) = house.told(RequestFinished)
    assert (finished.prompt_tokens, finished.completion_tokens) == (4, 6)
    assert len(finished.token_gaps) == 4


def of_several(house: House, *texts: str, **said: Any) -> CompletionRequest:
    first, *others = map(TextPrompt, texts)
    request = house.request(Placement(model="small"), **said)
    return msgspec.structs.replace(request, prompt=first, more_prompts=tuple(others))


@asynchronous
async def test_several_prompts_are_one_request_of_many_sequences() -> None:
    house = House()
    generation = await house.service.begin(of_several(house, "a", "b c", "d e f", n=2))
    assert generation.n == 6
    events = [await generation.next() for _ in range(6 * 4)]
    for index in range(6):
        own = [event for event in events if event.index == index]
        assert [type(event) for event in own] == [Token, Token, Token, Finished]
    assert (generation.prompt_tokens, generation.completion_tokens) == (6, 18)
    assert [work.prompt for work in house.worker.works] == [
        TextPrompt("a"),
        TextPrompt("b c"),
        TextPrompt("d e f"),
    ]
    (finished,) = house.told(RequestFinished)
    assert (finished.prompt_tokens, finished.completion_tokens) == (6, 18)
    await until(lambda: house.leases == 0)


@asynchronous
async def test_one_prompt_that_fails_is_the_request_s_failure() -> None:
    house = House()
    await text_of(await house.begin())
    request = msgspec.structs.replace(
        of_several(house, "a", max_length=FOREVER), more_prompts=(TokensPrompt((-1,)),)
    )
    generation = await house.service.begin(request)
    with pytest.raises(errors.InvalidRequest, match="not negative"):
        await text_of(generation)
    await until(lambda: house.leases == 0)
    assert house.worker.closed == len(house.worker.works) - 1  # the wrong one never began


@asynchronous
async def test_cancelling_a_request_cancels_all_its_prompts() -> None:
    house = House()
    generation = await house.service.begin(of_several(house, "a", "b", max_length=FOREVER))
    await generation.next()
    generation.cancel()
    await until(lambda: house.leases == 0)
    assert house.worker.closed == 2


@asynchronous
async def test_an_echo_is_read_as_text_and_counts_as_none() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.service.begin(of_several(house, "a", "b", n=2))
    generation.take(Started(1, 7, 3, 101.0))
    generation.take(Echo(1, "b"), nth=1)
    events = [await generation.next() for _ in range(2)]
    assert [(event.index, event.text) for event in events] == [(2, "b"), (3, "b")]
    assert generation.completion_tokens == 0
    assert generation.first_text_at is None
    generation.cancel()


@asynchronous
async def test_prompts_that_still_wait_put_nobody_ahead_of_a_request_that_has_begun() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.service.begin(of_several(house, "a", "b"))
    generation.take(Queued(1, 3))
    assert generation.ahead == 3
    generation.take(Started(1, 7, 3, 101.0))
    generation.take(Queued(2, 2), nth=1)
    assert generation.ahead is None
    generation.take(Started(2, 1, 0, 105.0), nth=1)
    assert (generation.started_at, generation.prompt_tokens) == (101.0, 8)
    generation.cancel()


def test_times_count_from_the_first_prompt_to_the_first_and_the_last_token() -> None:
    generation = new_generation(n=2)
    assert (generation.prefill_s, generation.decode_s) == (None, None)
    generation.take(Started(1, 7, 3, 101.0))
    generation.take(Token(1, "a", 102.5, 1))
    generation.take(Token(1, "b", 104.0, 0))
    assert (generation.prefill_s, generation.decode_s) == (1.5, 1.5)


def test_a_request_without_a_token_read_its_prompt_until_it_ended() -> None:
    generation = new_generation(clock=lambda: 103.0)
    generation.take(Started(1, 7, 3, 101.0))
    generation.take(Finished(1, "", FinishReason.LENGTH))
    assert (generation.prefill_s, generation.decode_s) == (2.0, None)


@pytest.mark.parametrize(
    ("client", "weight"), [("ann", 3.0), ("ann/laptop", 3.0), ("bob", 1.0), ("bob/ann", 1.0)]
)
def test_a_key_has_as_many_turns_as_the_settings_say_however_many_share_it(
    client: str, weight: float
) -> None:
    @asynchronous
    async def ask() -> None:
        house = House()
        await text_of(await house.begin(client=client))
        (work,) = house.worker.works
        assert (work.client, work.weight) == (client[:3], weight)

    ask()


@asynchronous
async def test_a_request_knows_how_many_are_ahead_of_it() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.begin()
    assert generation.ahead is None
    generation.take(Queued(1, 3))
    generation.take(Queued(1, 0))
    assert generation.ahead == 0
    with pytest.raises(TimeoutError):
        await generation.next(0.0)
    house.launcher.go()
    assert await text_of(generation) == "so it goes"
    assert generation.ahead is None


@asynchronous
async def test_a_lease_is_held_until_the_answer_is_complete() -> None:
    house = House()
    await text_of(await house.begin())
    house.worker.hush()
    house.worker.started.clear()
    generation = await house.begin()
    await house.worker.started.wait()
    assert house.leases == 1
    house.worker.speak()
    await text_of(generation)
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.leases == 0


@asynchronous
async def test_what_the_client_keeps_lies_under_the_request() -> None:
    house = House()
    await house.store.edit("ann", "", lambda _: Options(temperature=0.5, top_p=0.5))
    await house.store.edit("ann", "small", lambda _: Options(top_p=0.25, seed=1))
    await house.store.edit("bob", "", lambda _: Options(seed=99))
    await text_of(await house.begin(seed=2))
    (params,) = house.worker.params
    assert (params.temperature, params.top_p, params.seed) == (0.5, 0.25, 2)


@asynchronous
async def test_a_store_that_cannot_be_read_is_an_error_and_no_guess() -> None:
    house = House()

    async def broken(client: str, model: str = "") -> Options:
        raise errors.StoreUnavailable

    house.store.get = broken  # type: ignore[method-assign]
    with pytest.raises(errors.StoreUnavailable):
        await house.begin()
    assert house.launcher.launches == []


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
        with pytest.raises(error):
            await house.service.begin(house.request(placement))
        assert house.launcher.launches == []
        (refused,) = house.told(RequestRefused)
        assert (refused.model, refused.endpoint) == (placement.model, "completions")
        assert (refused.outcome, refused.reason) == (Outcome.ERROR, error.code)

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
async def test_a_full_queue_is_said_at_once() -> None:
    house = House(sequence_slots=1, max_queue=0)
    house.launcher.hold()
    first = await house.begin()
    await house.launcher.launching.wait()
    with pytest.raises(errors.QueueFull):
        await house.begin()
    (refused,) = house.told(RequestRefused)
    assert (refused.outcome, refused.reason) == (Outcome.REJECTED, "rate_limit_error")
    house.launcher.go()
    await text_of(first)


@asynchronous
async def test_a_wait_for_a_turn_in_the_engine_ends_too() -> None:
    house = House()
    await text_of(await house.begin())

    async def never(work: object, deliver: object) -> None:
        await asyncio.Event().wait()

    house.worker.generate = never  # type: ignore[method-assign]
    house.service.turns = Turns(timeout_s=0.0)
    generation = await house.begin()
    with pytest.raises(errors.NoCapacity, match="did not begin"):
        await generation.next()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.leases == 0
    assert house.told(RequestFinished)[-1].outcome is Outcome.REJECTED


@asynchronous
async def test_what_became_of_a_request_is_told_before_its_reader_hears_the_end() -> None:
    house = House()
    generation = await house.begin()
    while not isinstance(await generation.next(), Finished):
        pass
    (finished,) = house.told(RequestFinished)
    assert (finished.outcome, finished.reason) == (Outcome.OK, "length")
    assert (finished.model, finished.device, finished.dtype) == ("small", "cpu", "int4")
    assert (finished.prompt_tokens, finished.completion_tokens) == (4, 3)
    assert len(finished.token_gaps) == 2
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.told(RequestFinished) == [finished]


@asynchronous
async def test_a_request_that_its_client_left_was_cancelled() -> None:
    house = House()
    generation = await house.begin(max_length=FOREVER)
    await generation.next()
    generation.cancel()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    (finished,) = house.told(RequestFinished)
    assert (finished.outcome, finished.reason) == (Outcome.CANCELLED, "cancelled")


@asynchronous
async def test_a_request_cancelled_before_it_ran_gives_its_lease_back() -> None:
    house = House()
    generation = await house.begin()
    generation.cancel()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    assert house.leases == 0
    assert len(house.told(RequestFinished)) == 1


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
    assert house.told(RequestFinished)[-1].reason == "worker_lost"


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
async def test_giving_up_waiting_ends_only_what_no_engine_has_begun_with() -> None:
    house = House()
    running = await house.begin("small", max_length=FOREVER)
    await running.next()
    house.launcher.hold()
    waiting = await house.begin("large")
    house.service.give_up_waiting(errors.Draining())
    with pytest.raises(errors.Draining):
        await waiting.next()
    assert (await running.next()).text
    running.cancel()


@asynchronous
async def test_aborting_does_not_touch_what_is_over() -> None:
    house = House()
    generation = await house.begin()
    assert generation.task is not None
    await asyncio.wait({generation.task})
    house.service.abort(errors.Draining())
    assert await text_of(generation) == "so it goes"


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


def timed(*events: Started | Token | Finished, n: int = 1) -> Generation:
    generation = new_generation(n=n, arrived=100.0, clock=lambda: 104.5)
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
    assert figures["time_to_first_token"] == 4.5  # by the daemon's own clock, when it passes on
    assert figures["time_per_output_token"] == 2.0
    assert (figures["cached_tokens"], figures["completion_tokens"]) == (2, 3)


def test_times_of_several_sequences_are_each_its_own() -> None:
    generation = timed(
        Started(1, 5, 2, 101.0),
        Token(1, "", 102.0, 0),
        Token(1, "", 102.5, 1),
        Token(1, "a", 103.0, 1),
        Token(1, "b", 103.5, 0),
        Finished(1, "", FinishReason.STOP, 1),
        Token(1, "c", 106.0, 0),
        n=2,
    )
    assert (generation.finish_reason, generation.completion_tokens) == (None, 5)
    generation.take(Finished(1, "", FinishReason.LENGTH, 0))
    assert generation.finish_reason is FinishReason.LENGTH
    finished = generation._finished()
    assert finished.token_gaps == (1.5, 2.5, 0.5)
    assert (finished.prefill_s, finished.decode_s) == (1.0, 4.0)
    assert finished.time_to_first_token == 4.5


def test_figures_of_what_never_began_are_empty() -> None:
    figures = timed().figures()
    assert figures["time_to_first_token"] is None
    assert figures["time_per_output_token"] is None
    assert figures["finish_reason"] is None


def test_one_token_has_no_time_between_tokens() -> None:
    assert timed(Token(1, "a", 103.0)).figures()["time_per_output_token"] is None
