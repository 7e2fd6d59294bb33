"""What changes a sequence's logits before anything is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ResolvedParams
from lemonade_serve.worker.drawing import Drawing
from tests.unit.worker.sampling import EOS, Allowing, alone, logits_of

HIGHEST = float(np.finfo(np.float32).max)


def adjusted(drawing: Drawing, *values: float) -> list[float]:
    logits = logits_of(*values)
    drawing.adjust(logits)
    return [float(logit) for logit in logits]


def drawing(*prompt: int, **params: object) -> Drawing:
    return Drawing(ResolvedParams(**params), prompt, EOS)  # type: ignore[arg-type]


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    assert adjusted(drawing(1, 2, repetition_penalty=2.0), 0, 4, -3, 4) == [0, 2, -6, 4]


def test_the_repetition_penalty_counts_a_token_once_however_often_it_came() -> None:
    assert adjusted(drawing(1, 1, 1, repetition_penalty=2.0), 0, 8, 1) == [0, 4, 1]


def test_the_repetition_penalty_sees_generated_tokens_too() -> None:
    chosen = alone(4, 2, repetition_penalty=1.5, temperature=0.0)
    assert [chosen.token(0, 6, 6.5, 5) for _ in range(3)] == [1, 3, 2]


def test_the_smallest_repetition_penalty_works() -> None:
    chosen = alone(3, 0, 1, repetition_penalty=1e-300, temperature=0.0)
    assert chosen.token(0, 4, 8) == 1


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
def test_the_repetition_penalty_stays_within_float32(penalty: float) -> None:
    chosen = drawing(0, 1, 2, repetition_penalty=penalty)
    with np.errstate(over="ignore"):
        logits = adjusted(chosen, HIGHEST, -HIGHEST, 0)
    assert all(map(math.isfinite, logits))


def test_presence_and_frequency_count_generated_tokens_only() -> None:
    chosen = drawing(1, 1, presence_penalty=0.5, frequency_penalty=0.25)
    assert adjusted(chosen, 1, 2, 3) == [1, 2, 3]
    for token in (2, 2, 0):
        chosen.accept(token)
    assert adjusted(chosen, 1, 2, 3) == [1 - 0.5 - 0.25, 2, 3 - 0.5 - 2 * 0.25]


def test_negative_penalties_favour_what_was_said() -> None:
    chosen = drawing(presence_penalty=-2.0, frequency_penalty=-1.0)
    chosen.accept(1)
    assert adjusted(chosen, 1, 2, 3) == [1, 5, 3]


def test_the_repetition_penalty_comes_before_the_other_two_and_the_bias_before_all() -> None:
    chosen = drawing(
        1, repetition_penalty=2.0, presence_penalty=0.5, logit_bias=((0, 6.0), (1, 6.0))
    )
    chosen.accept(0)
    assert adjusted(chosen, 2, 2, 0) == [8 / 2 - 0.5, 8 / 2, 0]


def test_a_long_history_is_remembered() -> None:
    chosen = drawing(*range(100), repetition_penalty=2.0, frequency_penalty=1.0)
    for token in [*range(50, 400), 399]:
        chosen.accept(token)
    logits = adjusted(chosen, *[8.0] * 500)
    assert logits == [4.0] * 50 + [3.0] * 349 + [2.0] + [8.0] * 100


def test_a_bias_is_added() -> None:
    chosen = drawing(logit_bias=((2, 1.5), (0, -100.0)))
    assert adjusted(chosen, 1, 2, 3) == [-99, 2, 4.5]


def test_a_bias_makes_greedy_choose_otherwise() -> None:
    assert alone(3, temperature=0.0, logit_bias=((0, 5.0),)).token(1, 2, 3) == 0


def test_a_bias_stays_within_float32() -> None:
    chosen = drawing(logit_bias=((0, 1e300), (1, -1e300)))
    assert adjusted(chosen, 1, 2, 3) == [HIGHEST, -HIGHEST, 3]


def test_a_forbidden_token_stays_forbidden() -> None:
    chosen = drawing(
        0, repetition_penalty=0.5, presence_penalty=-2.0, logit_bias=((0, 100.0), (1, 100.0))
    )
    chosen.accept(1)
    assert adjusted(chosen, -math.inf, -math.inf, 1) == [-math.inf, -math.inf, 1]


def test_nothing_asked_for_leaves_the_logits_alone() -> None:
    chosen = drawing(1, 2)
    assert not chosen.changes
    assert adjusted(chosen, 0, 4, -3, 4) == [0, 4, -3, 4]


def test_no_end_of_sequence_before_min_length() -> None:
    chosen = alone(3, min_length=2, temperature=0.0)
    assert [chosen.token(9, 2, 1) for _ in range(3)] == [1, 1, 0]


def test_min_length_holds_when_drawing_too() -> None:
    chosen = alone(3, min_length=100, temperature=2.0, seed=1)
    assert 0 not in chosen.drawn(logits_of(20, 0, 0), 100)
    assert chosen.token(60, 0, 0) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_the_mask_allows_is_drawn(temperature: float) -> None:
    mask = Allowing([3, 40, 69], 70)
    chosen = alone(70, mask=mask, temperature=temperature, top_k=0, top_p=1.0, seed=1)
    tokens = chosen.drawn(np.zeros(70, dtype=np.float32), 100)
    assert set(tokens) == ({3} if temperature == 0 else {3, 40, 69})
    assert mask.accepted == tokens


def test_a_mask_with_one_token_leaves_no_choice() -> None:
    chosen = alone(70, mask=Allowing([69], 70))
    logits = logits_of(*[50.0] * 69, -50)
    assert chosen.drawn(logits, 10) == [69] * 10


def test_a_mask_of_a_smaller_vocabulary_forbids_the_rest() -> None:
    chosen = alone(70, mask=Allowing([1], 32), temperature=0.0)
    assert chosen.token(*range(70)) == 1


def test_a_mask_may_allow_everything() -> None:
    class Anything(Allowing):
        def allowed(self) -> NDArray[np.uint32] | None:
            return None

    mask = Anything([], 3)
    assert alone(3, mask=mask, temperature=0.0, min_length=1).token(5, 2, 3) == 2
    assert mask.accepted == [2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("allowed", [[], [1]])
def test_a_mask_that_leaves_nothing_is_an_error(temperature: float, allowed: list[int]) -> None:
    mask = Allowing(allowed, 3)
    with pytest.raises(errors.GenerationFailed, match="allowed"):
        alone(3, mask=mask, temperature=temperature).token(1, -math.inf, 2)
    assert mask.accepted == []


def test_a_mask_that_allows_the_end_alone_ends_before_min_length() -> None:
    chosen = alone(3, mask=Allowing([0], 3), min_length=5)
    assert chosen.token(1, 2, 3) == 0


def test_a_mask_that_allows_more_than_the_end_does_not() -> None:
    chosen = alone(3, mask=Allowing([0, 1], 3), min_length=5, temperature=0.0)
    assert chosen.token(9, 2, 3) == 1


def test_guidance_that_fails_is_an_error_of_its_row() -> None:
    class Confused(Allowing):
        def accept(self, token: int) -> None:
            raise errors.GenerationFailed("the grammar is too large")

    class Stuck(Allowing):
        def allowed(self) -> NDArray[np.uint32] | None:
            raise errors.GenerationFailed("the grammar is stuck")

    for mask, message in ((Confused([1], 3), "too large"), (Stuck([], 3), "stuck")):
        with pytest.raises(errors.GenerationFailed, match=message):
            alone(3, mask=mask).token(1, 2, 3)
