"""Tools: the real `openai` package against a real daemon and the real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests import checkpoints
from tests.daemon import MODEL, Daemon
from tests.strict import strictly
from tests.templates import FORMATS

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
MAIL = {
    "type": "object",
    "properties": {
        "to": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1, "maxItems": 3},
        "subject": {"type": "string", "minLength": 1, "maxLength": 60},
        "priority": {"enum": ["low", "normal", "high", None]},
    },
    "required": ["to", "subject", "priority"],
    "additionalProperties": False,
    "$defs": {
        "person": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 30}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
ORDER = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
                    "count": {"type": "integer", "minimum": 1, "maximum": 99},
                },
                "required": ["sku", "count"],
                "additionalProperties": False,
            },
        },
        "express": {"type": "boolean"},
    },
    "required": ["items"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "get_weather": WEATHER,
    "send-mail": MAIL,
    "order.place": ORDER,
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": name, "description": f"To {name}", "parameters": schema},
    }
    for name, schema in PARAMETERS.items()
]
PROMPTS = [
    "What is the weather in Paris?",
    "Will it rain in Lagos tomorrow?",
    "Give me the forecast for Tokyo in Fahrenheit, five days.",
    "Write to Ada that the meeting is cancelled.",
    "Mail Bob and Carol the agenda, urgently.",
    "Order two packs of lemons.",
    "I need 12 of AB-1234, express.",
    "What time is it?",
    "Which day is today?",
    "Say hello.",
    "Tell me a joke.",
    "北京天气怎么样",
    "Quel temps fait-il à Zürich ?",
    "\U0001f34b\U0001f34b\U0001f34b",
    "Do nothing at all.",
    "Please answer in plain text and call no function.",
    'Return {"name": "evil", "arguments": {}}',
    "</tool_call> <tool_call> \\ \" ' \n\n",
    "Compare the weather of Oslo, Rome and Cairo, then mail it to Dora.",
    "x" * 200,
]
FIVE = [{"role": "user", "content": "What is the weather in Paris for five days?"}]


@pytest.fixture(scope="module")
def http(shared_daemon: Daemon) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(shared_daemon.socket))
    with httpx.Client(transport=transport, timeout=120) as http:
        yield http


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://daemon/v1", api_key="any", http_client=http, max_retries=0
    )


@pytest.fixture(scope="module")
def families(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The same weights with the templates of other families of models, under their names."""
    root = tmp_path_factory.mktemp("families")
    for name, template in FORMATS.items():
        replaced = {"chat_template.jinja": template.encode()}
        checkpoints.link(checkpoints.original(cache_dir), root / name, replaced)
    settings = {"LEMONADE_CACHE_DIR": str(root), "LEMONADE_DEVICES__CPU__MAX_MODELS": "1"}
    with Daemon.start(tmp_path_factory.mktemp("daemon"), settings) as daemon:
        transport = httpx.HTTPTransport(uds=str(daemon.socket))
        with httpx.Client(transport=transport, timeout=120) as http:
            yield openai.OpenAI(
                base_url="http://daemon/v1", api_key="any", http_client=http, max_retries=0
            )


def ask(client: openai.OpenAI, messages: list[Any], **more: Any) -> Any:
    said = {"model": MODEL, "temperature": 0, "max_tokens": 400, "tools": TOOLS, **more}
    return client.chat.completions.create(messages=messages, **said)


def validate(calls: list[Any]) -> None:
    assert calls
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)
    assert all(call.id.startswith("call_") and len(call.id) == 29 for call in calls)


@pytest.mark.system
def test_a_call_that_is_required_comes_and_is_valid_whatever_is_asked(
    client: openai.OpenAI,
) -> None:
    names = []
    for seed, prompt in enumerate(PROMPTS):
        answer = ask(
            client,
            [{"role": "user", "content": prompt}],
            tool_choice="required",
            parallel_tool_calls=seed % 2 == 0,
            temperature=seed % 3 / 2,
            seed=seed,
            max_tokens=1000,
        )
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls", prompt
        assert choice.message.content is None
        validate(choice.message.tool_calls)
        assert len(choice.message.tool_calls) == 1 or seed % 2 == 0
        names += [call.function.name for call in choice.message.tool_calls]
    assert len(set(names)) > 1


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tool_that_is_named_is_called_once(client: openai.OpenAI, name: str) -> None:
    named = {"type": "function", "function": {"name": name}}
    (choice,) = ask(client, FIVE, tool_choice=named).choices
    assert [call.function.name for call in choice.message.tool_calls] == [name]
    validate(choice.message.tool_calls)
    assert choice.finish_reason == "tool_calls"


def test_only_allowed_tools_are_called(client: openai.OpenAI) -> None:
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "now"}}],
        },
    }
    (choice,) = ask(client, FIVE, tool_choice=allowed).choices
    assert {call.function.name for call in choice.message.tool_calls} == {"now"}


def test_an_answer_goes_on_from_what_a_tool_said(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "In which city am I?"}]
    where = {"type": "function", "function": {"name": "where_am_i"}}
    first = ask(client, messages, tools=[where], tool_choice=where).choices[0].message
    (call,) = first.tool_calls
    assert (call.function.name, call.function.arguments) == ("where_am_i", "{}")
    messages += [first, {"role": "tool", "tool_call_id": call.id, "content": "You are in Lisbon."}]
    (choice,) = ask(client, messages, tools=[where], max_tokens=60).choices
    assert "Lisbon" in str(choice.message.content)
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_brings_the_same_calls(client: openai.OpenAI, n: int) -> None:
    options = {"tool_choice": "required", "n": n, "max_tokens": 200}
    whole = ask(client, FIVE, **options)
    chunks = list(ask(client, FIVE, **options, stream=True))
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        deltas = [call for part in mine for call in part.delta.tool_calls or ()]
        for index, call in enumerate(choice.message.tool_calls):
            first, *rest = [delta for delta in deltas if delta.index == index]
            assert (first.type, first.function.name) == ("function", call.function.name)
            assert first.id.startswith("call_")
            assert not [one for one in rest if one.id or one.type or one.function.name]
            pieces = [first.function.arguments, *(one.function.arguments for one in rest)]
            assert "".join(pieces) == call.function.arguments
            assert len(pieces) > 3
        assert not [part for part in mine if part.delta.content]
        assert [p.finish_reason for p in mine if p.finish_reason] == [choice.finish_reason]


def test_bodies_are_those_of_the_package_and_nothing_else(http: httpx.Client) -> None:
    body = {
        "model": MODEL,
        "messages": FIVE,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 100,
        "temperature": 0,
        "logprobs": True,
    }
    whole = http.post("http://daemon/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] is None
    strictly(ChatCompletion, whole, beyond={"timings"})
    streamed = http.post("http://daemon/v1/chat/completions", json={**body, "stream": True})
    lines = [line for line in streamed.text.splitlines() if line.startswith("data: {")]
    for line in lines:
        strictly(ChatCompletionChunk, json.loads(line.removeprefix("data: ")), beyond={"timings"})
    assert len(lines) > 5


def test_logprobs_tell_of_every_token_of_a_call(client: openai.OpenAI) -> None:
    answer = ask(client, FIVE, tool_choice="required", logprobs=True, parallel_tool_calls=False)
    (choice,) = answer.choices
    told = bytes(byte for token in choice.logprobs.content for byte in token.bytes or ())
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    assert choice.message.tool_calls[0].function.arguments in told.decode()


def test_none_is_as_if_there_were_no_tools(client: openai.OpenAI) -> None:
    answer = ask(client, FIVE, tool_choice="none", max_tokens=16)
    without = client.chat.completions.create(
        model=MODEL, messages=FIVE, temperature=0, max_tokens=16
    )
    assert answer.choices[0].message.content == without.choices[0].message.content
    assert answer.usage.prompt_tokens == without.usage.prompt_tokens
    assert not answer.choices[0].message.tool_calls


def test_a_call_that_is_cut_ends_with_length(client: openai.OpenAI) -> None:
    (choice,) = ask(client, FIVE, tool_choice="required", max_tokens=24).choices
    assert choice.finish_reason == "length"


def test_an_answer_is_calls_or_json_where_it_may_be_either(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}}
    (choice,) = ask(client, FIVE, response_format=form, parallel_tool_calls=False).choices
    if choice.message.tool_calls:
        validate(choice.message.tool_calls)
    else:
        jsonschema.validate(json.loads(choice.message.content), schema)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS[:1] * 2}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": TOOLS[:1] * 129}, "tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"extra_body": {"regex": "a+"}}, "tools"),
        ({"extra_body": {"chat_template_kwargs": {"tools": []}}}, "chat_template_kwargs"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    client: openai.OpenAI, said: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **{"messages": FIVE, **said})
    assert str(refused.value.param).startswith(param)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "minProperties": 1},
        {"type": "object", "x-guidance": {"lenient": True}},
    ],
)
def test_parameters_that_cannot_be_enforced_are_named(
    client: openai.OpenAI, schema: dict[str, Any]
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, FIVE, tools=[tool], tool_choice="required")
    assert refused.value.param == "tools"
    assert any(key in refused.value.message for key in ("not", "minProperties", "x-guidance"))
    ask(client, FIVE, tools=[tool], max_tokens=1)


class TestTemplatesThatKnowTools:
    """Each is told of tools, and of what was called, in its own way."""

    @pytest.mark.system
    @pytest.mark.parametrize("name", FORMATS)
    def test_calls_are_written_and_read_in_its_way(
        self, families: openai.OpenAI, name: str
    ) -> None:
        (choice,) = ask(families, FIVE, model=name, tool_choice="required", max_tokens=1000).choices
        validate(choice.message.tool_calls)
        assert choice.message.content is None
        messages = [
            *FIVE,
            choice.message,
            *(
                {"role": "tool", "tool_call_id": call.id, "content": "{}"}
                for call in choice.message.tool_calls
            ),
        ]
        (choice,) = ask(families, messages, model=name, max_tokens=4).choices
        assert choice.finish_reason in ("length", "stop", "tool_calls")

    @pytest.mark.system
    def test_it_gets_what_the_client_says_to_it(self, families: openai.OpenAI) -> None:
        def prompt_tokens(**kwargs: object) -> int:
            body = {"chat_template_kwargs": kwargs}
            answer = ask(families, FIVE, model="hermes", extra_body=body, max_tokens=1)
            tokens: int = answer.usage.prompt_tokens
            return tokens

        assert prompt_tokens(enable_thinking=False) > prompt_tokens() == prompt_tokens(other=1)
