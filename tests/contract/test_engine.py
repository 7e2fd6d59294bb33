"""What every `Engine` keeps to, the scripted one and the real one alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Load, ResolvedParams
from lemonade_serve.worker.engines.base import Admitted, Broken, Engine, Sampled, Sequence, Step
from lemonade_serve.worker.sampler import Logits, Sampler
from tests.daemon import MODEL
from tests.fakes import FakeEngine

VOCABULARY = 49152
SLOTS = 2
PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308]
OTHER = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47]


def scripted(tokens: list[int]) -> int:
    return (31 * sum(tokens) + len(tokens)) % VOCABULARY


@pytest.fixture(scope="module", params=["fake", "genai"])
def made(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine(scripted, vocabulary=VOCABULARY, sequence_slots=SLOTS)
    from lemonade_serve.worker.engines.genai import GenaiEngine

    cache: Path = request.getfixturevalue("cache_dir")
    (directory,) = (cache / MODEL).iterdir()
    load = Load(
        path=str(directory),
        execution_provider="cpu",
        threads=1,
        sequence_slots=SLOTS,
        idle_sequences=1,
        prefill_chunk_tokens=16,
    )
    return GenaiEngine(load, context_length=2048)


@pytest.fixture
def engine(made: Engine) -> Iterator[Engine]:
    yield made
    for id in range(10):
        made.release(id)
    assert made.idle


class FailingSampler(Sampler):
    def sample(self, logits: Logits) -> int:
        raise errors.GenerationFailed("the model computed nonsense")


class HungrySampler(Sampler):
    def sample(self, logits: Logits) -> int:
        raise MemoryError("there is no memory")


def sequence(
    id: int, prompt: list[int] = PROMPT, kind: Callable[..., Sampler] = Sampler
) -> Sequence:
    params = ResolvedParams(temperature=0.0)
    return Sequence(id, list(prompt), 32, kind(params, prompt, frozenset()))


def stepped(engine: Engine, enough: Callable[[list[Step]], bool]) -> list[Step]:
    """All steps until there are enough of them; an engine that goes nowhere fails."""
    steps: list[Step] = []
    for _ in range(200):
        if enough(steps):
            return steps
        assert not engine.idle
        steps += engine.step()
    raise AssertionError(f"it made no progress: {steps}")


def tokens(steps: list[Step], id: int) -> list[int]:
    return [step.token for step in steps if isinstance(step, Sampled) and step.id == id]


def admitted(steps: list[Step]) -> list[int]:
    return [step.id for step in steps if isinstance(step, Admitted)]


def spoken(engine: Engine, prompt: list[int], count: int) -> list[int]:
    """What a sequence says when it is alone."""
    engine.submit(sequence(9, prompt))
    steps = stepped(engine, lambda steps: len(tokens(steps, 9)) == count)
    engine.release(9)
    return tokens(steps, 9)


def test_an_engine_with_nothing_to_do_is_idle(engine: Engine) -> None:
    assert engine.idle
    engine.submit(sequence(1))
    assert not engine.idle


def test_a_sequence_is_admitted_once_and_then_sampled_until_it_is_released(engine: Engine) -> None:
    engine.submit(sequence(1))
    steps = stepped(engine, lambda steps: len(tokens(steps, 1)) == 5)
    assert isinstance(steps[0], Admitted)
    assert 0 <= steps[0].cached_tokens < len(PROMPT)
    assert admitted(steps) == [1]
    assert all(0 <= token < VOCABULARY for token in tokens(steps, 1))
    engine.release(1)
    assert engine.idle


def test_sequences_are_admitted_in_the_order_of_their_arrival(engine: Engine) -> None:
    for id in (3, 1):
        engine.submit(sequence(id))
    assert admitted(stepped(engine, lambda steps: len(admitted(steps)) == 2)) == [3, 1]


def test_no_more_sequences_run_than_there_are_slots(engine: Engine) -> None:
    for id in (1, 2, 3):
        engine.submit(sequence(id))
    both = lambda steps: all(len(tokens(steps, id)) >= 3 for id in (1, 2))  # noqa: E731
    assert admitted(stepped(engine, both)) == [1, 2]
    engine.release(1)
    assert admitted(stepped(engine, lambda steps: bool(tokens(steps, 3)))) == [3]


def test_running_sequences_advance_together(engine: Engine) -> None:
    for id in (1, 2):
        engine.submit(sequence(id))
    steps = stepped(engine, lambda steps: len(tokens(steps, 1)) >= 6)
    assert len(tokens(steps, 2)) >= 4


def test_a_sequence_says_the_same_alone_and_beside_others(engine: Engine) -> None:
    alone = {1: spoken(engine, PROMPT, 6), 2: spoken(engine, OTHER, 6)}
    engine.submit(sequence(1, PROMPT))
    engine.submit(sequence(2, OTHER))
    enough = lambda steps: all(len(tokens(steps, id)) >= 6 for id in alone)  # noqa: E731
    steps = stepped(engine, enough)
    assert {id: tokens(steps, id)[:6] for id in alone} == alone


def test_a_sequence_says_the_same_the_second_time(engine: Engine) -> None:
    assert spoken(engine, PROMPT, 6) == spoken(engine, PROMPT, 6)


def test_a_released_sequence_says_no_more(engine: Engine) -> None:
    for id in (1, 2):
        engine.submit(sequence(id))
    stepped(engine, lambda steps: bool(tokens(steps, 1)))
    engine.release(1)
    steps = stepped(engine, lambda steps: len(tokens(steps, 2)) >= 3)
    assert {step.id for step in steps} == {2}


def test_a_sequence_released_while_it_waits_is_never_admitted(engine: Engine) -> None:
    for id in (1, 2, 3):
        engine.submit(sequence(id))
    stepped(engine, lambda steps: bool(tokens(steps, 2)))
    engine.release(3)
    engine.release(1)
    steps = stepped(engine, lambda steps: len(tokens(steps, 2)) >= 3)
    assert {step.id for step in steps} == {2}


def test_releasing_what_is_not_there_is_nothing(engine: Engine) -> None:
    engine.release(7)
    assert engine.idle


def test_a_broken_sequence_is_forgotten_and_hurts_no_other(engine: Engine) -> None:
    engine.submit(sequence(1, PROMPT, FailingSampler))
    engine.submit(sequence(2))
    steps = stepped(engine, lambda steps: len(tokens(steps, 2)) >= 4)
    broken = [step for step in steps if isinstance(step, Broken)]
    assert broken == [Broken(1, "the model computed nonsense")]
    assert tokens(steps, 1) == []
    engine.release(2)
    assert engine.idle


def test_what_there_is_no_memory_for_may_be_asked_again(engine: Engine) -> None:
    engine.submit(sequence(1, PROMPT, HungrySampler))
    steps = stepped(engine, lambda steps: any(isinstance(step, Broken) for step in steps))
    assert steps[-1] == Broken(1, "there is no memory", errors.NoCapacity.code)
    assert engine.idle
