"""`stats`: what of /stats is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lemonade_serve.cli.stats import percentile
from tests.unit.cli.runner import output
from tests.unit.cli.scripted import ScriptedDaemon

LAST: dict[str, Any] = {
    "time_to_first_token": 0.1234,
    "tokens_per_second": 33.33,
    "input_tokens": 128,
    "output_tokens": 5,
    "decode_token_times": [0.04, 0.01, 0.03, 0.02],
    "model": "[small]",
    "device": "cpu",
}
NOTHING = dict.fromkeys(LAST)


def test_figures_with_their_units(daemon: ScriptedDaemon) -> None:
    daemon.body = LAST
    assert [line.rstrip() for line in output("stats").splitlines()] == [
        "model                [small] on cpu",
        "time to first token  0.123 s",
        "tokens per second    33.3",
        "input tokens         128",
        "output tokens        5",
        "between two tokens   p50 20.0 ms, p95 40.0 ms",
    ]
    assert daemon.only().what() == ("GET", "/api/v0/stats", None)


def test_one_token_has_no_time_between(daemon: ScriptedDaemon) -> None:
    daemon.body = {**LAST, "decode_token_times": [], "tokens_per_second": None}
    lines = [line.split() for line in output("stats").splitlines()]
    assert lines[2] == ["tokens", "per", "second", "-"]
    assert lines[5] == ["between", "two", "tokens", "-"]


def test_before_the_first_request_there_is_nothing_to_show(daemon: ScriptedDaemon) -> None:
    daemon.body = NOTHING
    assert output("stats") == "No request has finished yet\n"


def test_those_of_one_model(daemon: ScriptedDaemon) -> None:
    daemon.body = LAST
    output("stats", "--model", "org/small")
    assert daemon.only().what() == ("GET", "/api/v0/stats", {"model": "org/small"})


@pytest.mark.parametrize("answer", [LAST, NOTHING])
def test_programs_get_what_the_daemon_said(daemon: ScriptedDaemon, answer: dict[str, Any]) -> None:
    daemon.body = answer
    assert json.loads(output("stats", "--json")) == answer


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [([7], 0.5, 7), ([2, 1], 0.5, 1), ([3, 1, 2], 0.5, 2), (range(1, 101), 0.95, 95), ([1], 0, 1)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, found: float) -> None:
    assert percentile(values, share) == found
