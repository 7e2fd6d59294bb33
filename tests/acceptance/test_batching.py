"""The batched engine on the real checkpoint: what a sequence says depends on nothing but itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path

import pytest

from lemonade_serve.protocol.messages import ChatPrompt, Load, Message, ResolvedParams, TextPrompt
from lemonade_serve.worker.engines import base
from lemonade_serve.worker.engines.base import Admitted, Engine, Group, Id, Sampled
from lemonade_serve.worker.engines.opening import open_engine
from lemonade_serve.worker.sampler import Drawing
from lemonade_serve.worker.vocabulary import Vocabulary
from tests import checkpoints

NEW_TOKENS = 16
GREEDY = {"temperature": 0.0}
SEEDED = {"temperature": 0.9, "top_p": 0.95, "top_k": 40, "seed": 11, "repetition_penalty": 1.1}

_PERSONAS = (
    "You are a patient teacher who explains things to children. Use short words, and examples from "
    "the kitchen, the garden and the street. Never laugh at a question.",
    "You are the night porter of an old hotel by the sea. You know every guest and every storm of "
    "the last forty years, and you answer slowly.",
    "You write instructions for machines that must not fail: one step a line, nothing twice.",
    "You are a gardener.",
    "",
)
_QUESTIONS = (
    "Why is the sky blue?",
    "What should I do first when the lights go out?",
    "Tell me about the river behind the house.",
    "How many eggs are in a dozen, and why?",
    "Write a list of five things that are made of glass.",
    "What did you have for breakfast, and who made it? Please tell it from the beginning, with all "
    "that you remember of the weather, the people and the noises of that morning.",
    "Translate into French: the cat sleeps on the warm stone.",
    "def fibonacci(n):",
    "Is it true that the moon pulls at the sea?",
    "Name a mountain.",
)
PROMPTS = 50


@pytest.fixture(scope="module")
def vocabulary(cache_dir: Path) -> Vocabulary:
    return Vocabulary(checkpoints.original(cache_dir))


@pytest.fixture(scope="module")
def prompts(vocabulary: Vocabulary) -> dict[int, list[int]]:
    """Chats that begin alike by tens, and plain texts."""
    chats = [
        ChatPrompt((Message("system", persona), Message("user", question)))
        if persona
        else TextPrompt(question)
        for persona, question in product(_PERSONAS, _QUESTIONS)
    ]
    assert len(chats) == PROMPTS
    return {request: vocabulary.encode(chat) for request, chat in enumerate(chats)}


def load(cache_dir: Path, engine: str, **bounds: int) -> Engine:
    wanted = {
        "threads": 2,
        "sequence_slots": 8,
        "kv_cache_tokens": 4096,
        "prefill_chunk_tokens": 32,
        "turn_timeout_s": 1,
        **bounds,
    }
    directory = str(checkpoints.original(cache_dir))
    made, _ = open_engine(Load(directory, "cpu", **wanted, engine=engine), context_length=8192)
    return made


@pytest.fixture(scope="module")
def batched(cache_dir: Path) -> Engine:
    return load(cache_dir, "batched")


@pytest.fixture
def engine(batched: Engine) -> Iterator[Engine]:
    """With nothing to do, whatever it remembers."""
    yield batched
    for id in itertools.starmap(Id, product(range(PROMPTS), range(8))):
        batched.release(id)


def group(request: int, prompt: list[int], params: Mapping[str, object], *, n: int = 1) -> Group:
    resolved = ResolvedParams(**params)  # type: ignore[arg-type]
    sequences = [
        base.Sequence(Id(request, index), Drawing(resolved, prompt, frozenset(), index=index))
        for index in range(n)
    ]
    return Group(prompt, NEW_TOKENS, sequences)


class Talk:
    """What some prompts are answered with, and how much of each was known already."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.said: dict[int, list[int]] = {}
        self.cached: dict[int, int] = {}

    def start(self, request: int, prompt: list[int], params: Mapping[str, object]) -> None:
        self._engine.start(group(request, prompt, params))
        self.said[request] = []

    def step(self) -> None:
        for event in self._engine.step().events:
            match event:
                case Admitted(id, cached_tokens):
                    self.cached[id.request] = cached_tokens
                case Sampled(id, draw):
                    self.said[id.request].append(draw.token)
                    if len(self.said[id.request]) == NEW_TOKENS:
                        self._engine.release(id)
                case _:
                    raise AssertionError(event)


def alone(
    engine: Engine, prompts: dict[int, list[int]], params: Mapping[str, object] = GREEDY
) -> dict[int, list[int]]:
    """One after the other."""
    talk = Talk(engine)
    for request, prompt in prompts.items():
        talk.start(request, prompt, params)
        while not engine.idle:
            talk.step()
    return talk.said


def together(
    engine: Engine,
    prompts: dict[int, list[int]],
    joins: Callable[[], bool],
    params: Mapping[str, object] = GREEDY,
) -> Talk:
    """As many at once as there is room for; between two steps the next one joins, or not."""
    talk, waiting = Talk(engine), list(prompts.items())
    while waiting or not engine.idle:
        while waiting and joins() and engine.fits(group(*waiting[0], params)):
            talk.start(*waiting.pop(0), params)
        if not engine.idle:
            talk.step()
    return talk


@pytest.fixture(scope="module")
def expected(cache_dir: Path, prompts: dict[int, list[int]]) -> dict[int, list[int]]:
    """What each prompt is answered with by an engine that knows nothing of it: one slot, and no two
    prompts in a row that begin the same."""
    engine = load(cache_dir, "batched", sequence_slots=1)
    order = sorted(prompts, key=lambda request: (request % 10, request))
    said = alone(engine, {request: prompts[request] for request in order})
    return {request: said[request] for request in prompts}


def test_a_sequence_says_the_same_among_others_that_join_and_leave(
    engine: Engine, prompts: dict[int, list[int]], expected: dict[int, list[int]]
) -> None:
    choose = random.Random(5)  # noqa: S311, a shuffle
    order = choose.sample(sorted(prompts), len(prompts))
    joins = lambda: choose.random() < choose.choice((0.1, 0.9))  # noqa: E731
    talk = together(engine, {request: prompts[request] for request in order}, joins)
    assert {request: talk.said[request] for request in prompts} == expected
    assert sum(talk.cached.values()) > 500


def test_a_sequence_says_the_same_when_its_prompt_is_known_already(
    engine: Engine, prompts: dict[int, list[int]], expected: dict[int, list[int]]
) -> None:
    for request, prompt in prompts.items():
        for known in (False, True):
            talk = together(engine, {request: prompt}, lambda: True)
            assert talk.said[request] == expected[request]
            if known:
                assert talk.cached[request] == len(prompt) - 2


def test_a_seed_says_the_same_at_every_width(engine: Engine, prompts: dict[int, list[int]]) -> None:
    some = {request: prompts[request] for request in range(0, PROMPTS, 4)}
    said = alone(engine, some, SEEDED)
    talk = together(engine, some, lambda: True, SEEDED)
    assert talk.said == said


def test_the_engine_of_onnxruntime_genai_says_the_same(
    cache_dir: Path, prompts: dict[int, list[int]], expected: dict[int, list[int]]
) -> None:
    other = load(cache_dir, "onnxruntime-genai")
    assert alone(other, prompts) == expected


def test_prompts_that_begin_the_same_are_read_once(engine: Engine, vocabulary: Vocabulary) -> None:
    system = "Remember every one of these words. " + "lemon lime orange river quiet " * 40
    chats = {
        request: vocabulary.encode(
            ChatPrompt((Message("system", system), Message("user", question)))
        )
        for request, question in enumerate(_QUESTIONS[:5])
    }
    talk = together(engine, chats, lambda: True)
    first, *others = (talk.cached[request] for request in chats)
    assert first < 10
    assert all(cached > 200 for cached in others)


def test_sequences_of_one_request_are_those_of_one_prompt(
    engine: Engine, prompts: dict[int, list[int]], expected: dict[int, list[int]]
) -> None:
    engine.start(group(3, prompts[3], GREEDY, n=8))
    said: dict[int, list[int]] = {index: [] for index in range(8)}
    admitted = 0
    while not engine.idle:
        for event in engine.step().events:
            admitted += isinstance(event, Admitted)
            if isinstance(event, Sampled):
                said[event.id.nth].append(event.draw.token)
                # They leave at different times.
                if len(said[event.id.nth]) == NEW_TOKENS - event.id.nth:
                    engine.release(event.id)
    assert admitted == 1
    for index, tokens in said.items():
        assert tokens == expected[3][: NEW_TOKENS - index]


def test_a_long_prompt_lets_others_speak_after_every_chunk(
    engine: Engine, prompts: dict[int, list[int]]
) -> None:
    talk = Talk(engine)
    talk.start(1, prompts[1], GREEDY)
    while not talk.said[1]:
        talk.step()
    long = [token for prompt in prompts.values() for token in prompt][:600]
    talk.start(2, long, GREEDY)
    for step in range(1, NEW_TOKENS - 1):
        talk.step()
        assert len(talk.said[1]) == step + 1
        assert talk.said[2] == []


def test_a_cancelled_prompt_is_no_loss_to_those_that_wait_for_it(
    engine: Engine, prompts: dict[int, list[int]], expected: dict[int, list[int]]
) -> None:
    talk = Talk(engine)
    for request in (5, 15, 25, 35):
        talk.start(request, prompts[request], GREEDY)
    talk.step()
    engine.release(Id(5, 0))
    while not engine.idle:
        talk.step()
    assert {request: talk.said[request] for request in (15, 25, 35)} == {
        request: expected[request] for request in (15, 25, 35)
    }


def test_short_prompts_are_read_in_one_step(engine: Engine, prompts: dict[int, list[int]]) -> None:
    talk = Talk(engine)
    short = {request: [request + 100, *prompts[49]][:8] for request in range(4)}
    for request, prompt in short.items():
        talk.start(request, prompt, GREEDY)
    talk.step()
    assert {request: len(said) for request, said in talk.said.items()} == dict.fromkeys(short, 1)
