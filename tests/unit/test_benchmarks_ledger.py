"""Tokens on both sides of HTTP."""

from __future__ import annotations

import pytest

from benchmarks.ledger import Counted, Ledger, read_metrics
from benchmarks.streams import Answer

EXPOSITION = """\
# TYPE lemonade_requests_total counter
lemonade_requests_total{model="one",device="cpu",endpoint="completions",outcome="ok"} 2
lemonade_requests_total{model="one",device="cpu",endpoint="chat_completions",outcome="ok"} 1
lemonade_requests_total{model="one",device="cpu",endpoint="completions",outcome="cancelled"} 4
lemonade_requests_total{model="one",device="none",endpoint="completions",outcome="rejected"} 5
lemonade_requests_total{model="other",device="cpu",endpoint="completions",outcome="ok"} 99
# TYPE lemonade_prompt_tokens_total counter
lemonade_prompt_tokens_total{model="one",device="cpu"} 70
# TYPE lemonade_generated_tokens_total counter
lemonade_generated_tokens_total{model="one",device="cpu"} 20
# TYPE lemonade_request_generated_tokens histogram
lemonade_request_generated_tokens_bucket{model="one",device="cpu",le="+Inf"} 3
lemonade_request_generated_tokens_sum{model="one",device="cpu"} 12
lemonade_request_generated_tokens_count{model="one",device="cpu"} 3
"""


def answer(
    *, tokens: int = 8, reason: str = "length", text: str = "x", problem: str = ""
) -> Answer:
    return Answer(0, 1, {0: [0.5]}, {0: text}, {0: reason}, 10, 4, tokens, problem)


def ledger() -> Ledger:
    """An answer, and a client that left and had asked for 5 tokens, and seen text once."""
    told = Ledger()
    told.finish(answer(), prompt_tokens=10, max_tokens=8, stops=())
    told.leave(answer(problem="the stream broke off"), prompt_tokens=20, max_tokens=5)
    return told


AGREED = Counted(
    ok=1,
    cancelled=1,
    ok_prompt_tokens=10,
    ok_generated_tokens=8,
    prompt_tokens=30,
    cached_tokens=4,
    generated_tokens=10,
)


def test_a_models_counts_are_read_from_an_exposition() -> None:
    counted = read_metrics(EXPOSITION, "one")
    assert (counted.ok, counted.cancelled, counted.failed) == (3, 4, 5)
    assert (counted.prompt_tokens, counted.generated_tokens) == (70, 20)
    assert counted.ok_generated_tokens == 12
    assert counted.since(counted) == Counted()


def test_both_sides_agree() -> None:
    told = ledger()
    assert told.faults == []
    assert told.differences(AGREED) == []


def test_an_answer_that_was_whole_when_its_client_left_is_no_difference() -> None:
    late = AGREED._replace(ok=2, cancelled=0, ok_prompt_tokens=30, ok_generated_tokens=13)
    assert ledger().differences(late._replace(generated_tokens=13)) == []


def test_a_client_that_left_unheard_is_no_difference() -> None:
    assert Ledger().differences(Counted()) == []
    unheard = AGREED._replace(cancelled=0, prompt_tokens=10, generated_tokens=9)
    assert ledger().differences(unheard) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"ok": 0},
        {"ok": 3},
        {"cancelled": 2},
        {"failed": 1},
        {"ok_prompt_tokens": 11},
        {"ok_generated_tokens": 7},
        {"prompt_tokens": 31},
        {"prompt_tokens": 9},
        {"cached_tokens": 3},
        {"generated_tokens": 8},
        {"generated_tokens": 14},
    ],
)
def test_a_count_that_cannot_be_is_a_difference(changed: dict[str, int]) -> None:
    assert ledger().differences(AGREED._replace(**changed))


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (answer(problem="the stream broke off"), "broke off"),
        (answer(tokens=7), "ended by its length after 7 of 8"),
        (answer(tokens=9, reason="stop"), "9 tokens of 8"),
        (answer(reason="cancelled"), "finish_reason"),
        (answer(text="and so", reason="stop"), "stop string"),
    ],
)
def test_an_answer_that_is_not_as_asked_for_is_a_fault(wrong: Answer, fault: str) -> None:
    told = Ledger()
    told.finish(wrong, prompt_tokens=10, max_tokens=8, stops=["and"])
    assert fault in told.faults[0]
