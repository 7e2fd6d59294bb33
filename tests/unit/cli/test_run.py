"""`run`: what is asked, and how the answer is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lemonade_serve.errors import LemonadeError
from tests.unit.cli.runner import invoke, output
from tests.unit.cli.scripted import ScriptedDaemon


@pytest.fixture(autouse=True)
def _says_so_on(daemon: ScriptedDaemon) -> None:
    events: list[dict[str, Any]] = [
        {"choices": [{"text": "so"}]},
        {"choices": [{"text": " on"}]},
        {"choices": [], "usage": {"completion_tokens": 2}},
    ]
    daemon.body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)


def asked(daemon: ScriptedDaemon) -> tuple[str, dict[str, Any]]:
    """Where, and what of it is not the same for every stream."""
    question = daemon.only()
    assert question.body.pop("stream")
    assert question.body.pop("stream_options") == {"include_usage": True}
    return question.path, question.body


def test_a_question_is_asked_as_a_chat(daemon: ScriptedDaemon) -> None:
    assert output("run", "small", "why?", "--system", "Be brief.") == "so on\n"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}]
    assert asked(daemon) == ("/v1/chat/completions", {"model": "small", "messages": turns})


def test_a_raw_prompt_is_continued(daemon: ScriptedDaemon) -> None:
    output(
        *("run", "small", "Once", "--raw", "--temperature", "0", "--max-tokens", "5"),
        *("--seed", "7"),
    )
    body = {"model": "small", "prompt": "Once", "temperature": 0.0, "max_tokens": 5, "seed": 7}
    assert asked(daemon) == ("/v1/completions", body)


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_the_prompt_may_come_from_standard_input(daemon: ScriptedDaemon, prompt: list[str]) -> None:
    invoke("run", "small", *prompt, "--raw", stdin="Once")
    assert asked(daemon)[1]["prompt"] == "Once"


def test_an_empty_prompt_is_a_usage_error(daemon: ScriptedDaemon) -> None:
    assert invoke("run", "small", stdin="").exit_code == 2
    assert daemon.asked == []


def test_an_answer_may_be_json() -> None:
    answer = {"model": "small", "text": "so on", "completion_tokens": 2}
    assert json.loads(output("run", "small", "why?", "--json")) == answer


def test_figures_go_to_standard_error() -> None:
    result = invoke("run", "small", "why?", "--stats")
    assert result.stdout == "so on\n"
    assert "2 tokens" in result.stderr


def test_it_asks_with_the_key_and_the_name_that_are_given(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    output("run", "small", "why?", "--api-key", "s3cret", "--client", "alice")
    monkeypatch.setenv("LEMONADE_API_KEY", "0ther")
    monkeypatch.setenv("LEMONADE_CLIENT_ID", "bob")
    output("run", "small", "why?")
    assert [
        (question.headers["authorization"], question.headers["x-client-id"])
        for question in daemon.asked
    ] == [("Bearer s3cret", "alice"), ("Bearer 0ther", "bob")]


def test_nobody_there_is_an_error_of_the_command() -> None:
    result = invoke("run", "small", "why?", "--url", "http://127.0.0.1:1")
    assert isinstance(result.exception, LemonadeError)
    assert "no daemon answers" in result.exception.message
