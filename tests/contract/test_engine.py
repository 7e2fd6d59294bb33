"""What every `Engine` keeps to, the scripted one and the real ones alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Guidance, Load, ResolvedParams, TextPrompt, Work
from lemonade_serve.worker.engines import base
from lemonade_serve.worker.engines.base import (
    Admitted,
    Broken,
    Engine,
    Event,
    Group,
    Id,
    Sampled,
    Scored,
)
from lemonade_serve.worker.engines.opening import open_engine
from lemonade_serve.worker.guidance import GrammarMask, Grammars
from lemonade_serve.worker.sampler import Drawing, Mask
from lemonade_serve.worker.vocabulary import Vocabulary
from tests import checkpoints, plugins
from tests.daemon import MODEL
from tests.engines import FakeEngine

VOCABULARY = 49152
SLOTS = 3
CACHE_TOKENS = 400
NEW_TOKENS = 32
PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308]
OTHER = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47]


def scripted(tokens: list[int]) -> int:
    return (31 * sum(tokens) + len(tokens)) % VOCABULARY


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        "batched",
        "onnxruntime-genai",
        pytest.param("openvino", marks=pytest.mark.system),
    ],
)
def made(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine(
            scripted, vocabulary=VOCABULARY, sequence_slots=SLOTS, kv_cache_tokens=CACHE_TOKENS
        )
    cache: Path = request.getfixturevalue("cache_dir")
    (directory,) = (cache / MODEL).iterdir()
    load = Load(
        path=str(directory),
        execution_provider="cpu",
        threads=1,
        sequence_slots=SLOTS,
        kv_cache_tokens=CACHE_TOKENS,
        prefill_chunk_tokens=16,
        turn_timeout_s=1,
        engine=request.param,
    )
    if request.param == "openvino":
        load = on_openvino(load, request.getfixturevalue("plugin_packages"))
    engine, _ = open_engine(load, context_length=2048)
    assert engine.name == load.engine
    return engine


def on_openvino(load: Load, packages: Path) -> Load:
    """On the CPU, and never rounded to bfloat16: how a prompt is cut would show."""
    return msgspec.structs.replace(
        load,
        engine="onnxruntime-genai",
        execution_provider="openvino",
        library=str(plugins.library(packages, "openvino")),
        provider_options=(("load_config", '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'),),
    )


@pytest.fixture
def engine(made: Engine) -> Iterator[Engine]:
    yield made
    for request in range(10):
        for index in range(SLOTS):
            made.release(Id(request, index))
    assert made.idle
    assert made.kv_tokens == 0


class Failing(Mask):
    """Lets its sequence say nothing, or with an error not even that."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def allowed(self) -> NDArray[np.uint32]:
        if self._error:
            raise self._error
        return np.zeros(VOCABULARY // 32, np.uint32)

    def accept(self, token: int) -> None:
        raise AssertionError(f"{token} was not allowed")


def group(
    request: int,
    prompt: list[int] = PROMPT,
    *,
    n: int = 1,
    new: int = NEW_TOKENS,
    mask: Mask | None = None,
    scored: int | None = None,
    **params: object,
) -> Group:
    resolved = ResolvedParams(**{"temperature": 0.0, **params})  # type: ignore[arg-type]
    sequences = [
        base.Sequence(
            Id(request, index), Drawing(resolved, prompt, frozenset(), index=index, mask=mask)
        )
        for index in range(n)
    ]
    return Group(list(prompt), new, sequences, scored)


def stepped(engine: Engine, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """All events until there are enough of them; an engine that goes nowhere fails."""
    events: list[Event] = []
    for _ in range(300):
        if enough(events):
            return events
        assert not engine.idle
        events += engine.step().events
    raise AssertionError(f"it made no progress: {events}")


def tokens(events: Sequence[Event], request: int, index: int = 0) -> list[int]:
    id = Id(request, index)
    return [event.draw.token for event in events if isinstance(event, Sampled) and event.id == id]


def admitted(events: Sequence[Event]) -> list[int]:
    return [event.id.request for event in events if isinstance(event, Admitted)]


def spoken(engine: Engine, prompt: list[int], count: int, **params: object) -> list[int]:
    """What a sequence says when it is alone."""
    engine.start(group(9, prompt, **params))  # type: ignore[arg-type]
    events = stepped(engine, lambda events: len(tokens(events, 9)) == count)
    engine.release(Id(9, 0))
    return tokens(events, 9)


def test_an_engine_with_nothing_to_do_is_idle(engine: Engine) -> None:
    assert engine.idle
    engine.start(group(1))
    assert not engine.idle


def test_a_sequence_is_admitted_once_and_then_sampled_until_it_is_released(engine: Engine) -> None:
    engine.start(group(1))
    events = stepped(engine, lambda events: len(tokens(events, 1)) == 5)
    first = next(event for event in events if isinstance(event, Admitted))
    assert events[0] == first
    assert 0 <= first.cached_tokens < len(PROMPT)
    assert admitted(events) == [1]
    assert all(0 <= token < VOCABULARY for token in tokens(events, 1))
    engine.release(Id(1, 0))
    assert engine.idle


def test_what_runs_has_its_tokens_of_the_cache_to_itself(engine: Engine) -> None:
    engine.start(group(1, n=2))
    assert engine.kv_tokens >= 2 * (len(PROMPT) + NEW_TOKENS)
    engine.release(Id(1, 0))
    engine.release(Id(1, 1))
    assert engine.kv_tokens == 0


def test_a_group_fits_where_there_are_slots_and_tokens_for_all_of_it(engine: Engine) -> None:
    all_tokens = CACHE_TOKENS - len(PROMPT)
    assert engine.fits(group(1, new=all_tokens))
    assert not engine.fits(group(1, new=all_tokens + 1))
    assert not engine.fits(group(1, n=2, new=all_tokens))
    assert engine.fits(group(1, n=SLOTS))
    assert not engine.fits(group(1, n=SLOTS + 1))
    engine.start(group(1))
    assert not engine.fits(group(2, n=SLOTS))
    assert engine.fits(group(2, n=SLOTS - 1))
    assert not engine.fits(group(2, new=all_tokens))


def test_room_that_is_given_back_is_there_for_others(engine: Engine) -> None:
    for request in range(5):
        large = group(request, [request + 5, *PROMPT], new=CACHE_TOKENS - len(PROMPT) - 1)
        assert engine.fits(large)
        engine.start(large)
        assert not engine.fits(group(8))
        stepped(engine, lambda events, request=request: bool(tokens(events, request)))  # type: ignore[misc]
        engine.release(Id(request, 0))
    for request in range(SLOTS):
        engine.start(group(request, OTHER))
    stepped(engine, lambda events: all(tokens(events, request) for request in range(SLOTS)))


def test_running_sequences_advance_together(engine: Engine) -> None:
    for request in (1, 2):
        engine.start(group(request))
    events = stepped(engine, lambda events: len(tokens(events, 1)) >= 8)
    assert len(tokens(events, 2)) >= 4


def test_a_sequence_says_the_same_alone_and_beside_others(engine: Engine) -> None:
    alone = {1: spoken(engine, PROMPT, 6), 2: spoken(engine, OTHER, 6)}
    engine.start(group(1, PROMPT))
    engine.start(group(2, OTHER))
    enough = lambda events: all(len(tokens(events, id)) >= 6 for id in alone)  # noqa: E731
    events = stepped(engine, enough)
    assert {id: tokens(events, id)[:6] for id in alone} == alone


def test_the_same_seed_says_the_same_alone_and_beside_others(engine: Engine) -> None:
    seeded = {"temperature": 1.5, "seed": 7}
    alone = spoken(engine, PROMPT, 6, **seeded)
    engine.start(group(2, OTHER))
    engine.start(group(1, PROMPT, **seeded))  # type: ignore[arg-type]
    events = stepped(engine, lambda events: len(tokens(events, 1)) >= 6)
    assert tokens(events, 1)[:6] == alone


def test_a_sequence_says_the_same_the_second_time(engine: Engine) -> None:
    assert spoken(engine, PROMPT, 6) == spoken(engine, PROMPT, 6)


def test_sequences_of_a_group_continue_one_prompt(engine: Engine) -> None:
    alone = spoken(engine, PROMPT, 6)
    engine.start(group(1, n=SLOTS))
    enough = lambda events: all(len(tokens(events, 1, i)) >= 6 for i in range(SLOTS))  # noqa: E731
    events = stepped(engine, enough)
    assert admitted(events) == [1]
    assert [tokens(events, 1, index)[:6] for index in range(SLOTS)] == [alone] * SLOTS


def test_sequences_of_a_seeded_group_differ_and_are_each_reproducible(engine: Engine) -> None:
    seeded = {"temperature": 1.5, "seed": 7}
    said = []
    for _ in range(2):
        engine.start(group(1, n=2, **seeded))  # type: ignore[arg-type]
        enough = lambda events: all(len(tokens(events, 1, i)) >= 8 for i in (0, 1))  # noqa: E731
        events = stepped(engine, enough)
        said.append([tokens(events, 1, index)[:8] for index in (0, 1)])
        for index in (0, 1):
            engine.release(Id(1, index))
    assert said[0] == said[1]
    if engine.name != "fake":  # whose logits leave nothing to chance
        assert said[0][0] != said[0][1]


def test_a_released_sequence_says_no_more(engine: Engine) -> None:
    for request in (1, 2):
        engine.start(group(request))
    stepped(engine, lambda events: bool(tokens(events, 1)))
    engine.release(Id(1, 0))
    events = stepped(engine, lambda events: len(tokens(events, 2)) >= 3)
    assert {event.id.request for event in events} == {2}


def test_a_sequence_of_a_group_leaves_without_the_others(engine: Engine) -> None:
    for released in range(SLOTS):
        engine.start(group(1, [released + 3, *PROMPT], n=SLOTS))
        engine.release(Id(1, released))
        others = [index for index in range(SLOTS) if index != released]
        enough = lambda events, o=others: all(len(tokens(events, 1, i)) > 2 for i in o)  # noqa: E731
        events = stepped(engine, enough)
        assert {event.id.nth for event in events if isinstance(event, Sampled)} == set(others)
        for index in others:
            engine.release(Id(1, index))


def test_a_sequence_released_while_its_prompt_is_read_says_nothing(engine: Engine) -> None:
    engine.start(group(1, PROMPT * 4))
    engine.start(group(2))
    engine.step()
    engine.release(Id(1, 0))
    events = stepped(engine, lambda events: len(tokens(events, 2)) >= 3)
    assert {event.id.request for event in events} == {2}


def test_releasing_what_is_not_there_is_nothing(engine: Engine) -> None:
    engine.release(Id(7, 0))
    assert engine.idle


def test_a_broken_sequence_is_forgotten_and_hurts_no_other(engine: Engine) -> None:
    engine.start(group(1, PROMPT, mask=Failing()))
    engine.start(group(2))
    events = stepped(engine, lambda events: len(tokens(events, 2)) >= 4)
    (broken,) = (event for event in events if isinstance(event, Broken))
    assert broken.id == Id(1, 0)
    assert broken.code == errors.GenerationFailed.code
    assert tokens(events, 1) == []
    engine.release(Id(2, 0))
    assert engine.idle


class Stuck(Mask):
    """Allows everything, and fails when it has heard two tokens."""

    def __init__(self) -> None:
        self._heard = 0

    def allowed(self) -> None:
        return None

    def accept(self, token: int) -> None:
        self._heard += 1
        if self._heard == 2:
            raise ValueError(f"{self._heard} are too many")


def test_guidance_that_fails_in_the_middle_of_a_batch_ends_its_own_sequence(engine: Engine) -> None:
    engine.start(group(1, PROMPT, mask=Stuck()))
    engine.start(group(2))
    events = stepped(engine, lambda events: len(tokens(events, 2)) >= 6)
    broken = [event for event in events if isinstance(event, Broken)]
    assert broken == [Broken(Id(1, 0), "2 are too many")]
    assert len(tokens(events, 1)) == 1
    engine.release(Id(2, 0))
    assert engine.idle


def test_what_there_is_no_memory_for_may_be_asked_again(engine: Engine) -> None:
    engine.start(group(1, PROMPT, mask=Failing(MemoryError("there is no memory"))))
    events = stepped(engine, lambda events: any(isinstance(event, Broken) for event in events))
    assert events[-1] == Broken(Id(1, 0), "there is no memory", errors.NoCapacity.code)
    assert engine.idle
    assert len(spoken(engine, PROMPT, 3)) == 3


def scores(events: Sequence[Event], request: int) -> list[Scored]:
    return [e for e in events if isinstance(e, Scored) and e.id.request == request]


def test_a_prompt_that_is_scored_has_all_its_tokens_but_the_first(engine: Engine) -> None:
    engine.start(group(1, scored=2, n=2, logprobs=0))
    events = stepped(engine, lambda events: len(tokens(events, 1, 1)) == 2)
    told = scores(events, 1)
    assert [one.draw.token for one in told] == PROMPT[1:]
    assert {one.id for one in told} == {Id(1, 0)}
    for one in told:
        assert one.draw.logprob is not None
        best, second = one.draw.top
        assert 0 >= best[1] >= second[1]
        assert one.draw.logprob <= best[1]
    own = [n for n, event in enumerate(events) if isinstance(event, Sampled)]
    assert events.index(told[-1]) < min(own)
    assert tokens(events, 1, 0)[:2] == tokens(events, 1, 1)


def test_others_speak_while_a_prompt_is_scored_and_it_is_scored_the_same(engine: Engine) -> None:
    engine.start(group(1, scored=0))
    alone = scores(stepped(engine, lambda events: bool(tokens(events, 1))), 1)
    engine.release(Id(1, 0))
    engine.start(group(2, OTHER))
    stepped(engine, lambda events: bool(tokens(events, 2)))
    engine.start(group(3, scored=0))
    events = stepped(engine, lambda events: bool(tokens(events, 3)))
    assert [one.draw for one in scores(events, 3)] == [one.draw for one in alone]
    if engine.name != "fake":  # which reads a prompt in one step
        assert len(tokens(events, 2)) >= len(PROMPT) - 2


def test_what_a_scored_prompt_leaves_changes_nothing_for_others(engine: Engine) -> None:
    before = spoken(engine, [*OTHER, *PROMPT], 8)
    engine.start(group(1, [*OTHER, *PROMPT], scored=0))
    stepped(engine, lambda events: bool(tokens(events, 1)))
    engine.release(Id(1, 0))
    assert spoken(engine, [*OTHER, *PROMPT], 8) == before


def test_a_scored_prompt_of_one_token_has_nothing_to_tell(engine: Engine) -> None:
    engine.start(group(1, PROMPT[:1], scored=1))
    events = stepped(engine, lambda events: bool(tokens(events, 1)))
    assert scores(events, 1) == []


def test_a_sequence_released_while_its_prompt_is_scored_tells_no_more(engine: Engine) -> None:
    if engine.name == "fake":  # it reads a prompt in one step
        return
    engine.start(group(1, PROMPT, scored=0))
    engine.start(group(2))
    stepped(engine, lambda events: bool(scores(events, 1)))
    engine.release(Id(1, 0))
    events = stepped(engine, lambda events: len(tokens(events, 2)) >= 3)
    assert scores(events, 1) == []


MakeMask = Callable[[str], GrammarMask]
EXPRESSION = r"(yes|no), [a-z]{2,5}\."


@pytest.fixture(scope="module")
def make_mask(cache_dir: Path) -> MakeMask:
    """Compiles a regular expression, for the real model's vocabulary."""
    directory = checkpoints.original(cache_dir)
    grammars = Grammars(directory / "tokenizer.json", Vocabulary(directory).eos_ids)

    def make(expression: str) -> GrammarMask:
        guidance = Guidance("regex", expression)
        (mask,) = grammars.masks(Work(TextPrompt("x"), ResolvedParams(), guidance=guidance))
        return mask

    return make


@pytest.fixture(scope="module")
def decode(cache_dir: Path) -> Callable[[list[int]], str]:
    return Vocabulary(checkpoints.original(cache_dir)).decode


def guided(engine: Engine, masks: dict[int, GrammarMask]) -> dict[int, list[int]]:
    """What the requests with these masks say until their grammars are over."""
    said: dict[int, list[int]] = {request: [] for request in masks}
    for _ in range(300):
        if all(mask.over for mask in masks.values()):
            return said
        for event in engine.step().events:
            if isinstance(event, Sampled) and event.id.request in masks:
                said[event.id.request].append(event.draw.token)
                if masks[event.id.request].over:
                    engine.release(event.id)
    raise AssertionError(f"a grammar came to no end: {said}")


def test_guided_sequences_keep_to_their_grammars_beside_one_that_is_free(
    engine: Engine, make_mask: MakeMask, decode: Callable[[list[int]], str]
) -> None:
    free = spoken(engine, OTHER, 6)
    masks = {request: make_mask(EXPRESSION) for request in (1, 2)}
    engine.start(group(1, PROMPT, mask=masks[1]))
    engine.start(group(3, OTHER))
    engine.start(group(2, OTHER, mask=masks[2], temperature=2.0, seed=1))
    said = guided(engine, masks)
    assert all(re.fullmatch(EXPRESSION, decode(tokens)) for tokens in said.values())
    engine.release(Id(3, 0))
    assert spoken(engine, OTHER, 6) == free


def test_a_free_sequence_says_the_same_alone_and_beside_guided_ones(
    engine: Engine, make_mask: MakeMask
) -> None:
    free = spoken(engine, OTHER, 12)
    engine.start(group(1, PROMPT, mask=make_mask("[a-z ]+")))
    engine.start(group(3, OTHER))
    engine.start(group(2, OTHER, mask=make_mask("[0-9]+"), temperature=1.5, seed=1))
    enough = lambda events: all(len(tokens(events, id)) >= 12 for id in (1, 2, 3))  # noqa: E731
    events = stepped(engine, enough)
    assert tokens(events, 3)[:12] == free


def test_sequences_of_a_guided_group_have_a_way_each(
    engine: Engine, make_mask: MakeMask, decode: Callable[[list[int]], str]
) -> None:
    expressions = ["[a-z]{8,}", "[0-9]{8,}", "[A-Z]{8,}"]
    seeded = ResolvedParams(temperature=1.0, seed=3)
    masks = [make_mask(expression) for expression in expressions]
    sequences = [
        base.Sequence(Id(1, index), Drawing(seeded, PROMPT, frozenset(), index=index, mask=mask))
        for index, mask in enumerate(masks)
    ]
    engine.start(Group(list(PROMPT), NEW_TOKENS, sequences, None))
    enough = lambda events: all(len(tokens(events, 1, i)) >= 8 for i in range(SLOTS))  # noqa: E731
    events = stepped(engine, enough)
    for index, expression in enumerate(expressions):
        assert re.fullmatch(expression, decode(tokens(events, 1, index)))


def test_a_guided_sequence_says_the_same_alone_and_beside_others(
    engine: Engine, make_mask: MakeMask
) -> None:
    alone = make_mask(EXPRESSION)
    engine.start(group(1, PROMPT, mask=alone))
    said = guided(engine, {1: alone})[1]
    beside = make_mask(EXPRESSION)
    engine.start(group(2, OTHER))
    engine.start(group(1, PROMPT, mask=beside))
    assert guided(engine, {1: beside})[1] == said


def test_a_grammar_past_its_limits_ends_its_own_sequence(
    engine: Engine, make_mask: MakeMask
) -> None:
    engine.start(group(1, PROMPT, mask=make_mask("(" * 12 + "a" + "{9,1000})" * 12)))
    engine.start(group(2))
    events = stepped(engine, lambda events: any(isinstance(event, Broken) for event in events))
    (broken,) = (event for event in events if isinstance(event, Broken))
    assert (broken.id, broken.code) == (Id(1, 0), errors.GenerationFailed.code)
    assert "too complex" in broken.message
    said = len(tokens(events, 2))
    events += stepped(engine, lambda events: bool(tokens(events, 2)))
    assert len(tokens(events, 2)) > said
