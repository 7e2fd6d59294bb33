"""From logits to tokens, against a reference written the slow way."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ResolvedParams
from lemonade_serve.worker.sampler import Logits, Sampler

EOS = frozenset({0})


def logits_of(*values: float) -> Logits:
    return np.array(values, dtype=np.float32)


def sampler(*prompt: int, **params: object) -> Sampler:
    return Sampler(ResolvedParams(**params), list(prompt), EOS)  # type: ignore[arg-type]


def reference(logits: Logits, temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """The probability of each token that may be drawn."""
    ranked = sorted(range(len(logits)), key=lambda token: -float(logits[token]))
    ranked = ranked[:top_k] if top_k else ranked
    best = max(float(logits[token]) for token in ranked)
    odds = {token: math.exp((float(logits[token]) - best) / temperature) for token in ranked}
    total = sum(odds.values())
    kept: dict[int, float] = {}
    for token in ranked:
        if kept and sum(kept.values()) >= top_p * total:
            break
        kept[token] = odds[token]
    return {token: value / sum(kept.values()) for token, value in kept.items()}


def drawn(sampler: Sampler, logits: Logits, times: int) -> Counter[int]:
    return Counter(sampler.sample(logits.copy()) for _ in range(times))


def chi_square(counts: Counter[int], odds: dict[int, float]) -> float:
    times = counts.total()
    return sum((counts[t] - times * p) ** 2 / (times * p) for t, p in odds.items())


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"do_sample": False, "temperature": 2.0}])
def test_greedy_takes_the_most_likely_token(params: dict[str, float]) -> None:
    chosen = sampler(**params)
    assert [chosen.sample(logits_of(1, 9, 3)), chosen.sample(logits_of(1, 2, 3))] == [1, 2]


def test_greedy_takes_the_first_of_equals() -> None:
    assert sampler(temperature=0.0).sample(logits_of(1, 5, 5)) == 1


def test_the_same_seed_gives_the_same_tokens() -> None:
    logits = np.random.default_rng(1).normal(size=200).astype(np.float32)
    first, second = sampler(seed=7), sampler(seed=7)
    runs = [[s.sample(logits.copy()) for _ in range(30)] for s in (first, second)]
    assert runs[0] == runs[1]


def test_another_seed_gives_other_tokens() -> None:
    logits = np.zeros(200, dtype=np.float32)
    params = {"top_k": 0, "top_p": 1.0}
    runs = [
        [s.sample(logits.copy()) for _ in range(30)]
        for s in (sampler(seed=n, **params) for n in (1, 2))
    ]
    assert runs[0] != runs[1]


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1, 0])
def test_any_seed_of_the_api_works(seed: int) -> None:
    logits = logits_of(*range(8))
    assert sampler(seed=seed).sample(logits.copy()) == sampler(seed=seed).sample(logits.copy())


def test_without_a_seed_two_runs_differ() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    runs = [drawn(sampler(top_k=0, top_p=1.0), logits, 20) for _ in range(2)]
    assert runs[0] != runs[1]


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=24, unique=True),
    st.floats(0.2, 2),
    st.integers(0, 30),
    st.floats(0.05, 1),
    st.integers(0, 2**32),
)
def test_only_tokens_of_the_reference_are_drawn(
    values: list[float], temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = logits_of(*values)
    allowed = reference(logits, temperature, top_k, min(1.0, top_p + 1e-6))
    chosen = sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    assert set(drawn(chosen, logits, 5)) <= set(allowed)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.7), (1.3, 9, 0.8)],
)
def test_tokens_are_drawn_as_often_as_their_odds_say(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(3).normal(scale=1.5, size=12).astype(np.float32)
    odds = reference(logits, temperature, top_k, top_p)
    chosen = sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=11)
    counts = drawn(chosen, logits, 4000)
    assert set(counts) <= set(odds)
    # The 99.99th percentile for 11 degrees of freedom is 37; the seed is fixed, so it is or is not.
    assert chi_square(counts, odds) < 37


def test_top_k_zero_is_off() -> None:
    logits = np.zeros(50, dtype=np.float32)
    assert len(drawn(sampler(top_k=0, top_p=1.0, seed=1), logits, 1000)) == 50


@pytest.mark.parametrize("top_k", [4, 5, 1000])
def test_top_k_may_be_the_vocabulary_or_more(top_k: int) -> None:
    logits = np.zeros(4, dtype=np.float32)
    assert len(drawn(sampler(top_k=top_k, top_p=1.0, seed=1), logits, 200)) == 4


def test_top_k_one_is_greedy() -> None:
    assert drawn(sampler(top_k=1, temperature=2.0), logits_of(1, 3, 2), 50) == {1: 50}


def test_a_small_top_p_keeps_the_most_likely_token() -> None:
    assert drawn(sampler(top_p=1e-9, temperature=2.0), logits_of(1, 3, 2), 50) == {1: 50}


def test_top_p_stops_at_the_token_that_reaches_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    assert set(drawn(sampler(temperature=1.0, top_p=0.7, seed=1), logits, 500)) == {0, 1}
    assert set(drawn(sampler(temperature=1.0, top_p=0.9, seed=1), logits, 500)) == {0, 1, 2}


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    logits = logits_of(0, 4, -3, 4)
    sampler(1, 2, repetition_penalty=2.0, temperature=0.0).sample(logits)
    assert logits.tolist() == [0, 2, -6, 4]


def test_the_repetition_penalty_counts_a_token_once_however_often_it_came() -> None:
    logits = logits_of(0, 8, 1)
    sampler(1, 1, 1, repetition_penalty=2.0, temperature=0.0).sample(logits)
    assert logits.tolist() == [0, 4, 1]


def test_the_repetition_penalty_sees_generated_tokens_too() -> None:
    chosen = sampler(2, repetition_penalty=1.5, temperature=0.0)
    assert [chosen.sample(logits_of(0, 6, 6.5, 5)) for _ in range(3)] == [1, 3, 2]


def test_the_smallest_repetition_penalty_works() -> None:
    chosen = sampler(0, 1, repetition_penalty=1e-300, temperature=0.0)
    assert chosen.sample(logits_of(0, 4, 8)) == 1


def test_no_penalty_leaves_the_logits_alone() -> None:
    logits = logits_of(0, 4, -3, 4)
    sampler(1, 2, temperature=0.0).sample(logits)
    assert logits.tolist() == [0, 4, -3, 4]


def test_no_end_of_sequence_before_min_length() -> None:
    chosen = sampler(min_length=2, temperature=0.0)
    assert [chosen.sample(logits_of(9, 2, 1)) for _ in range(3)] == [1, 1, 0]


def test_min_length_holds_when_drawing_too() -> None:
    chosen = sampler(min_length=100, temperature=2.0, seed=1)
    assert 0 not in drawn(chosen, logits_of(20, 0, 0), 100)
    assert chosen.sample(logits_of(60, 0, 0)) == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(logit: float, temperature: float) -> None:
    with pytest.raises(errors.GenerationFailed, match="not numbers"):
        sampler(temperature=temperature).sample(logits_of(1, logit, 2))


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = logits_of(-math.inf, 0, -math.inf, 0)
    assert set(drawn(sampler(top_k=0, top_p=1.0, seed=1), logits, 200)) == {1, 3}


def test_logits_far_apart_do_not_overflow() -> None:
    assert drawn(sampler(temperature=0.01), logits_of(-3e4, 3e4, 2.9e4), 20) == {1: 20}


def test_the_smallest_temperature_is_nearly_greedy() -> None:
    assert drawn(sampler(temperature=5e-324), logits_of(1, 3, 2, 2.5), 20) == {1: 20}
