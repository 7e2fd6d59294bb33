"""What the benchmarks say of many answers, and of two results."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.comparison import compare
from benchmarks.figures import Objective, of_answers, ratios
from benchmarks.prompts import Prompts
from benchmarks.streams import Answer
from benchmarks.traffic import poisson

OBJECTIVE = Objective(ttft_ms=1000, per_token_ms=100)


def answer(began: float, times: list[float], *, tokens: int, problem: str = "") -> Answer:
    texts, reasons = {0: "x" * len(times)}, {0: "length"}
    return Answer(began, times[-1], {0: times}, texts, reasons, 10, 4, tokens, problem)


def test_rates_count_from_the_first_request_to_the_last_end() -> None:
    figures = of_answers(
        [answer(0, [0.5, 1.0], tokens=2), answer(1, [1.5, 2.0, 4.0], tokens=10)], OBJECTIVE
    )
    assert figures["wall_s"] == 4
    assert figures["tokens_per_s"] == 3
    assert figures["usage"] == {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 6}


def test_time_per_output_token_is_that_of_tokens_not_of_texts() -> None:
    one = answer(0, [0.5, 1.5], tokens=11)
    assert one.time_per_output_token == pytest.approx(0.1)
    assert answer(0, [0.5], tokens=1).time_per_output_token is None


def test_good_is_what_meets_both_parts_of_the_objective() -> None:
    good = answer(0, [1.0, 2.0], tokens=11)
    late = answer(0, [1.1, 2.0], tokens=11)
    slow = answer(0, [0.5, 2.0], tokens=11)
    assert of_answers([good, late, slow], OBJECTIVE)["goodput_per_s"] == pytest.approx(1 / 2)


def test_what_failed_is_in_no_other_figure() -> None:
    broken = answer(0, [9.0], tokens=100, problem="the stream broke off")
    figures = of_answers([answer(0, [0.5, 1.0], tokens=2), broken], OBJECTIVE)
    assert (figures["requests"], figures["failed"]) == (2, 1)
    assert figures["problems"] == ["the stream broke off"]
    assert figures["ttft_ms_p99"] == 500
    assert figures["tokens_per_s"] == pytest.approx(2 / 9)
    assert of_answers([broken], OBJECTIVE).keys() == {"requests", "failed", "problems"}


def test_ratios_are_taken_round_by_round() -> None:
    rows = [{"a": {"f": 1.0}, "b": {"f": 2.0}}, {"a": {"f": 10.0}, "b": {"f": 40.0}}]
    assert ratios(rows, "b", "a", "f")["median"] == 3
    assert ratios([*rows, {"a": {}, "b": {"f": 1.0}}], "b", "a", "f") == {}


def test_arrivals_are_the_seeds_and_as_many_a_second_as_asked_for() -> None:
    arrivals = poisson(Prompts(1).choose, 4, 4000)
    assert arrivals == poisson(Prompts(1).choose, 4, 4000)
    assert arrivals == sorted(arrivals)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert statistics.mean(gaps) == pytest.approx(1 / 4, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(1 / 4, rel=0.1)


def test_prompts_have_so_many_tokens_and_begin_as_they_shall() -> None:
    prompts = Prompts(1)
    beginning = prompts.new(24)
    one, other = prompts.after(beginning, 8), prompts.after(beginning, 8)
    assert len(one) == 32
    assert one[:24] == other[:24] == beginning
    assert one != other
    assert isinstance(Prompts(1, words_per_token=0.5).new(10), str)
    assert len(str(Prompts(1, words_per_token=0.5).new(10)).split()) == 5


def result(side: str, tokens_per_s: tuple[float, float, float]) -> dict[str, Any]:
    cell = {"models": 1, "shared": False, "prompt_tokens": 32, "concurrency": 8, "rate": None}
    low, median, high = tokens_per_s
    figures = {"tokens_per_s": {"median": median, "quartiles": [low, high]}}
    return {"sides": {side: {}}, "summary": [{**cell, "side": side, **figures}]}


def test_two_results_are_compared_where_both_measured() -> None:
    [row] = compare(result("daemon", (90, 100, 110)), result("batched", (270, 300, 330)))
    assert (row["before"], row["after"], row["concurrency"]) == ("daemon", "batched", 8)
    assert row["tokens_per_s"]["ratio"] == 3
    assert row["tokens_per_s"]["least"] == pytest.approx(270 / 110)
    assert row["tokens_per_s"]["most"] == pytest.approx(330 / 90)
    assert "ttft_ms_p50" not in row


def test_sides_are_matched_by_name_when_there_are_several() -> None:
    one, other = result("daemon", (1, 1, 1)), result("daemon", (2, 2, 2))
    one["sides"]["peer"] = {}
    assert [row["after"] for row in compare(one, other)] == ["daemon"]
