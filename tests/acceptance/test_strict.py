"""Every body of chat and plain completions, strictly against the models of the `openai` package:
no field may be missing, of another type or unknown, but for `timings` and what is said of models.

Two of those models are stricter than OpenAI was: a piece of a stream is read as a whole completion,
which always has a reason; and the first token of an echo has a null where numbers are announced.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lemonade_serve.api.openai.timings import Timings
from tests.daemon import MODEL, Daemon
from tests.strict import MODEL_EXTRAS, strictly

SHARED: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 2, "top_p": 0.5, "seed": 7},
    {"n": 3, "seed": 1},
    {"stop": "a"},
    {"stop": [*"abcdefghijklmno", " the"], "temperature": 0},
    {"presence_penalty": 1, "frequency_penalty": -1},
    {"logit_bias": {"4649": 100}},
    {"min_p": 0.1, "top_k": 5, "repetition_penalty": 1.1},
    {"min_tokens": 4, "ignore_eos": True},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    {"safety_identifier": "s", "prompt_cache_key": "k"},
    {"keep_alive": 60},
]
CHATS: list[dict[str, Any]] = [
    *SHARED,
    {"max_completion_tokens": 3},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 20, "n": 2},
    {"parallel_tool_calls": True},
]
TEXTS: list[dict[str, Any]] = [
    *SHARED,
    {"logprobs": 0},
    {"logprobs": 5, "n": 2},
    {"echo": True},
    {"echo": True, "max_tokens": 0},
    {"echo": True, "logprobs": 2, "n": 2},
    {"echo": True, "logprobs": 0, "max_tokens": 0},
    {"prompt": ["One", "Two", "Three"], "n": 2},
    {"prompt": [[504, 3575], [504]], "echo": True, "logprobs": 1},
    {"suffix": ""},
]
STRICT: list[dict[str, Any]] = [
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"type": "boolean"}, "strict": True},
        }
    },
    {"regex": "[a-z]{3}"},
    {"grammar": 'start: "yes" | "no"'},
]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALLS: list[dict[str, Any]] = [
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "none"},
    {"tools": [TOOL], "tool_choice": "required", "max_tokens": 64},
    {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "max_tokens": 64,
    },
]


def cases(*groups: list[dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(said, id=" ".join(said) or "nothing") for group in groups for said in group
    ]


def whole(daemon: Daemon, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = daemon.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def check_timings(body: dict[str, Any]) -> None:
    told = msgspec.json.decode(json.dumps(body["timings"]), type=Timings)
    assert set(body["timings"]) == set(Timings.__struct_fields__)
    assert told.prompt_n >= 1
    if usage := body.get("usage"):
        assert told.predicted_n == usage["completion_tokens"]
        assert told.cache_n == usage["prompt_tokens_details"]["cached_tokens"]
        assert told.prompt_n + told.cache_n == usage["prompt_tokens"]


def check_stream(events: list[dict[str, Any]], *, usage: bool) -> None:
    """What the models cannot say: where usage and timings are, and what all events share."""
    for name in ("id", "created", "model", "system_fingerprint", "object"):
        assert len({event[name] for event in events}) == 1
    *others, last = events
    assert not [event for event in others if "timings" in event]
    check_timings(last)
    nothing = None if usage else "not even null"
    assert [event.get("usage", "not even null") for event in others] == [nothing] * len(others)
    assert bool(last.get("usage")) == usage
    assert (not last["choices"]) == usage


@pytest.mark.parametrize("said", cases(CHATS, STRICT, CALLS))
def test_a_chat_is_openais(shared_daemon: Daemon, said: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 6, **said}
    for path in ("/v1/chat/completions", "/api/v0/chat/completions"):
        answer = whole(shared_daemon, path, body)
        strictly(ChatCompletion, answer, beyond=["timings"])
        check_timings(answer)
    for usage in (False, True):
        asked = {"stream_options": {"include_usage": True}} if usage else {}
        events = list(shared_daemon.events("/v1/chat/completions", {**body, **asked}))
        for event in events:
            strictly(ChatCompletionChunk, event, beyond=["timings"])
        check_stream(events, usage=usage)


@pytest.mark.parametrize("said", cases(TEXTS, STRICT))
def test_a_completion_is_openais(shared_daemon: Daemon, said: dict[str, Any]) -> None:
    body = {"model": MODEL, "prompt": "The lemon", "max_tokens": 6, **said}
    answer = whole(shared_daemon, "/v1/completions", body)
    strictly(Completion, numbered(answer), beyond=["timings"])
    check_timings(answer)
    for usage in (False, True):
        asked = {"stream_options": {"include_usage": True}} if usage else {}
        events = list(shared_daemon.events("/v1/completions", {**body, **asked}))
        for event in events:
            strictly(Completion, ended(numbered(event)), beyond=["timings"])
        check_stream(events, usage=usage)


def numbered(body: dict[str, Any]) -> dict[str, Any]:
    """With numbers where the first token of an echo has null."""
    copy: dict[str, Any] = json.loads(json.dumps(body))
    for choice in copy["choices"]:
        told = choice["logprobs"]
        if told and told["token_logprobs"][0] is None:
            assert told["top_logprobs"][0] is None
            assert told["text_offset"][0] == 0
            told["token_logprobs"][0], told["top_logprobs"][0] = 0.0, {}
    return copy


def ended(body: dict[str, Any]) -> dict[str, Any]:
    """With a reason where a piece has null."""
    for choice in body["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    return body


def test_models_are_openais(shared_daemon: Daemon) -> None:
    for prefix in ("/v1", "/api/v1"):
        listed = shared_daemon.client.get(f"{prefix}/models").json()
        assert set(listed) == {"object", "data"}
        assert listed["object"] == "list"
        (model,) = listed["data"]
        assert strictly(Model, model, beyond=MODEL_EXTRAS).id == MODEL
        assert shared_daemon.client.get(f"{prefix}/models/{MODEL}").json() == model
