"""Tools and chats with calls, from OpenAI's words to the house's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lemonade_serve import errors
from lemonade_serve.api.openai import requests
from lemonade_serve.api.openai.chat import chat_prompt
from lemonade_serve.domain.completion import ChatPrompt, Message, Tool, ToolCall, ToolChoice

USER = {"role": "user", "content": "x"}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "g", "description": "G.", "strict": True}},
]
F, G = Tool("f", None, '{"type":"object"}'), Tool("g", "G.")


def read(*messages: dict[str, Any], **said: Any) -> ChatPrompt:
    body = {"messages": [*messages] or [USER], **said}
    return chat_prompt(msgspec.convert(body, requests.ChatRequest))


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "shown", "meant"),
    [
        (None, (F, G), ToolChoice()),
        ("auto", (F, G), ToolChoice()),
        ("none", (), ToolChoice()),
        ("required", (F, G), ToolChoice(required=True)),
        (named("g"), (G,), ToolChoice(required=True, parallel=False)),
        (allowed("auto", "f"), (F,), ToolChoice()),
        (allowed("required", "f", "g"), (F, G), ToolChoice(required=True)),
    ],
)
def test_a_choice_is_of_what_the_model_is_shown(
    choice: object, shown: tuple[Tool, ...], meant: ToolChoice
) -> None:
    prompt = read(tools=TOOLS, tool_choice=choice)
    assert (prompt.tools, prompt.choice) == (shown, meant)


def test_calls_may_have_to_come_alone() -> None:
    assert not read(tools=TOOLS, parallel_tool_calls=False).choice.parallel
    assert read(tools=TOOLS, parallel_tool_calls=True).choice.parallel


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"tools": TOOLS[:1] * 2}, "tools"),
        ({"tools": TOOLS, "tool_choice": named("h")}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "f", "h")}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": named("f")}, "tool_choice"),
        (
            {"tools": [{**TOOLS[0], "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools",
        ),
    ],
)
def test_a_choice_that_is_not_there_is_refused(said: dict[str, Any], param: str) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        read(**said)
    assert raised.value.param == param


def test_a_chat_may_have_calls_and_their_answers() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    parts = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
    told = {"role": "tool", "tool_call_id": "c1", "content": parts}
    stray = {"role": "tool", "tool_call_id": "c2", "content": "?"}
    assert read(USER, asked, told, stray).messages == (
        Message("user", "x"),
        Message("assistant", "", tool_calls=(ToolCall("c1", "f", "{}"),)),
        Message("tool", "42", "f", tool_call_id="c1"),
        Message("tool", "?", tool_call_id="c2"),
    )


def test_an_assistant_says_something_or_calls() -> None:
    for silent in ({}, {"content": None}, {"tool_calls": []}):
        with pytest.raises(errors.InvalidRequest, match=r"messages\[1\]") as raised:
            read(USER, {"role": "assistant", **silent})
        assert raised.value.param == "messages"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": "x", "tool_call_id": "c1"},
        {"role": "system"},
        {"role": "function", "content": "x"},
        {"content": "x"},
    ],
)
def test_each_role_has_its_own_fields(message: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"messages\[0\]|role"):
        read(message)


def test_what_a_template_is_told_stays_as_it_is() -> None:
    said = {"enable_thinking": False, "n": [1, None]}
    prompt = read(chat_template_kwargs=said)
    assert msgspec.json.decode(prompt.template_kwargs) == said
    assert read().template_kwargs == "{}"
