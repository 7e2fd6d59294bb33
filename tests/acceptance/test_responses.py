"""The Responses API: the real `openai` package against a real daemon and the real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.acceptance.openai_clients import async_client_of, client_of
from tests.daemon import MODEL, Daemon, eventually
from tests.strict import strictly

QUESTION = "In which city is the Eiffel Tower?"
PLAIN: dict[str, Any] = {"model": MODEL, "input": QUESTION, "temperature": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": SCHEMA,
    "strict": True,
}
WHERE: dict[str, Any] = {"type": "function", "name": "where_am_i"}
NAMED: dict[str, Any] = {"type": "function", "name": "weather"}
JSON: dict[str, Any] = {"format": {"type": "json_schema", "name": "trip", "schema": SCHEMA}}
LOGPROBS: list[Any] = ["message.output_text.logprobs"]


class Mood(pydantic.BaseModel):
    mood: Literal["good", "bad"]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"instructions": "You answer in one word.", "metadata": {"a": "b"}, "user": "u"},
    {"max_output_tokens": 3, "store": False},
    {"include": LOGPROBS, "top_logprobs": 2, "max_output_tokens": 8},
    {"include": LOGPROBS, "max_output_tokens": 8},
    {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 200},
    {"text": JSON, "max_output_tokens": 200},
    {"text": {"format": {"type": "text"}}, "max_output_tokens": 4},
    {"tools": [WEATHER], "max_output_tokens": 16},
    {"tools": [WEATHER], "tool_choice": "none", "max_output_tokens": 4},
    {"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 200},
    {"tools": [WEATHER, WHERE], "tool_choice": NAMED, "max_output_tokens": 200},
    {
        "tools": [WEATHER, WHERE],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "where_am_i"}],
        },
        "parallel_tool_calls": False,
        "max_output_tokens": 200,
    },
    {"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 12},
    {
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
            {"role": "assistant", "content": "In Paris."},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "Sunny."},
        ],
        "max_output_tokens": 4,
    },
    {
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 1,
        "stop": ["."],
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": 1},
        "min_tokens": 2,
        "ignore_eos": True,
        "keep_alive": "5m",
        "max_output_tokens": 8,
        "truncation": "disabled",
        "background": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "chat_template_kwargs": {},
    },
]


@pytest.mark.system
@pytest.mark.parametrize("said", OPTIONS, ids=lambda said: "-".join(said) or "plain")
def test_bodies_and_events_are_those_of_the_package_and_say_the_same(
    shared_daemon: Daemon, said: dict[str, Any]
) -> None:
    body = {**PLAIN, **said}
    answer = shared_daemon.client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    whole = strictly(Response, answer.json())
    streamed = shared_daemon.client.post("/v1/responses", json={**body, "stream": True})
    events = read(streamed.text)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1].response
    assert events[-1].type == f"response.{last.status}"
    assert last.status == whole.status
    assert last.output_text == whole.output_text == text_of(events)
    assert [calls_of(last), calls_of(whole)] == [arguments_of(events)] * 2
    assert last.usage.output_tokens == (whole.usage.output_tokens if whole.usage else None)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.output


def read(stream: str) -> list[Any]:
    """The events, strictly; comments are left out."""
    blocks = [block for block in stream.split("\n\n") if block.startswith("event: ")]
    pairs = [block.removeprefix("event: ").split("\ndata: ") for block in blocks]
    events: list[Any] = [
        strictly(ResponseStreamEvent, json.loads(data))  # type: ignore[arg-type]
        for _, data in pairs
    ]
    assert [name for name, _ in pairs] == [event.type for event in events]
    assert "[DONE]" not in stream
    return events


def text_of(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


def calls_of(response: Any) -> list[str]:
    return [item.arguments for item in response.output if item.type == "function_call"]


def arguments_of(events: list[Any]) -> list[str]:
    """Of every call of a stream, from its pieces."""
    calls: dict[str, str] = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            calls[event.item_id] = calls.get(event.item_id, "") + event.delta
    return [*calls.values()]


def test_an_answer_is_complete_and_says_what_it_cost(client: openai.OpenAI) -> None:
    answer = client.responses.create(**PLAIN)
    assert "Paris" in answer.output_text
    assert (answer.status, answer.model) == ("completed", MODEL)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.id.startswith("resp_")
    assert answer.output[0].id
    assert answer.output[0].id.startswith("msg_")


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(**PLAIN, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_the_package_follows_a_stream_to_its_end(client: openai.OpenAI) -> None:
    with client.responses.stream(**PLAIN) as stream:
        said = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert "Paris" in said
    assert final.output_text == said
    kinds = [event.type for event in client.responses.create(**PLAIN, stream=True)]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_the_asynchronous_client_is_answered_and_follows_streams(shared_daemon: Daemon) -> None:
    async def ask() -> tuple[str, str]:
        async with async_client_of(shared_daemon) as client:
            whole = await client.responses.create(**PLAIN)
            async with client.responses.stream(**PLAIN) as stream:
                final = await stream.get_final_response()
            return whole.output_text, final.output_text

    whole, streamed = asyncio.run(ask())
    assert whole == streamed
    assert "Paris" in whole


def test_logprobs_are_of_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    answer = client.responses.create(**PLAIN, include=LOGPROBS, top_logprobs=2)
    (message,) = answer.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    tokens = part.logprobs or []
    assert answer.usage is not None
    assert len(tokens) == answer.usage.output_tokens
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    told = bytes(byte for token in tokens for byte in token.bytes)
    assert told.decode().startswith(part.text)


class TestStructured:
    """What the answer must be."""

    def test_the_package_parses_into_a_model(self, client: openai.OpenAI) -> None:
        said: dict[str, Any] = {"model": MODEL, "input": "How are you?", "text_format": Mood}
        answer = client.responses.parse(**said)
        assert answer.output_parsed is not None
        assert answer.output_parsed.mood in {"good", "bad"}
        with client.responses.stream(**said) as stream:
            final = stream.get_final_response()
        assert final.output_parsed is not None

    def test_json_follows_its_schema(self, client: openai.OpenAI) -> None:
        for seed in range(3):
            body = {"seed": seed, "temperature": 1}
            answer = client.responses.create(**{**PLAIN, "text": JSON}, extra_body=body)
            assert answer.status == "completed"
            jsonschema.validate(json.loads(answer.output_text), SCHEMA)

    def test_a_schema_that_cannot_be_enforced_is_refused_by_name(
        self, client: openai.OpenAI
    ) -> None:
        form: Any = {"type": "json_schema", "name": "x", "schema": {"not": {"type": "string"}}}
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**PLAIN, text={"format": form})
        assert refused.value.param == "text.format"
        assert "not" in refused.value.message


class TestTools:
    """Functions of the caller's."""

    def test_a_call_that_is_required_is_valid(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(
            **{**PLAIN, "tools": [WEATHER], "tool_choice": "required"}, max_output_tokens=400
        )
        calls = [item for item in answer.output if item.type == "function_call"]
        assert calls
        assert len(calls) == len(answer.output)
        for call in calls:
            assert call.id
            assert (call.id[:3], call.call_id[:5]) == ("fc_", "call_")
            jsonschema.validate(json.loads(call.arguments), SCHEMA)

    @pytest.mark.system
    @pytest.mark.parametrize("chained", [False, True])
    def test_an_answer_goes_on_from_what_a_tool_said(
        self, client: openai.OpenAI, chained: bool
    ) -> None:
        said: list[Any] = [{"role": "user", "content": "In which city am I?"}]
        tools: dict[str, Any] = {"model": MODEL, "temperature": 0, "tools": [WHERE]}
        first = client.responses.create(**tools, input=said, tool_choice="required")
        calls = [item for item in first.output if item.type == "function_call"]
        outputs: list[Any] = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": "You are in Lisbon.",
            }
            for call in calls
        ]
        if chained:
            rest: dict[str, Any] = {"previous_response_id": first.id, "input": outputs}
        else:
            rest = {"input": [*said, *first.output, *outputs]}
        answer = client.responses.create(**tools, **rest, max_output_tokens=60)
        assert "Lisbon" in answer.output_text

    def test_the_package_parses_arguments_as_they_stream(self, client: openai.OpenAI) -> None:
        with client.responses.stream(
            **{**PLAIN, "tools": [WEATHER], "tool_choice": NAMED}
        ) as stream:
            pieces = [e for e in stream if e.type == "response.function_call_arguments.delta"]
            final = stream.get_final_response()
        (call,) = final.output
        assert call.type == "function_call"
        assert pieces[-1].snapshot == call.arguments
        jsonschema.validate(call.parsed_arguments, SCHEMA)


class TestConversations:
    """What is kept for `previous_response_id`."""

    def test_a_chain_remembers_and_reads_nothing_twice(self, client: openai.OpenAI) -> None:
        first = client.responses.create(
            model=MODEL, input="My name is Zebedee. Say hello to me.", temperature=0
        )
        second = client.responses.create(
            model=MODEL,
            input="What is my name?",
            previous_response_id=first.id,
            temperature=0,
            max_output_tokens=40,
        )
        assert "Zebedee" in second.output_text
        assert second.previous_response_id == first.id
        assert first.usage is not None
        assert second.usage is not None
        known = first.usage.input_tokens
        assert second.usage.input_tokens_details.cached_tokens >= known - 2

    def test_it_is_told_again_listed_and_forgotten(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(**PLAIN, instructions="Be brief.", metadata={"a": "b"})
        again = client.responses.retrieve(answer.id)
        assert again.to_dict() == answer.to_dict()
        (item,) = client.responses.input_items.list(answer.id)
        assert item.type == "message"
        assert item.content[0].text == QUESTION  # type: ignore[union-attr]
        client.responses.delete(answer.id)
        with pytest.raises(openai.NotFoundError) as gone:
            client.responses.retrieve(answer.id)
        assert gone.value.code == "response_not_found"

    def test_another_client_s_is_not_found(self, shared_daemon: Daemon) -> None:
        with client_of(shared_daemon, default_headers={"X-Client-Id": "ali"}) as ali:
            answer = ali.responses.create(**PLAIN, max_output_tokens=1)
        with client_of(shared_daemon, default_headers={"X-Client-Id": "bob"}) as bob:
            with pytest.raises(openai.NotFoundError):
                bob.responses.retrieve(answer.id)
            with pytest.raises(openai.NotFoundError) as refused:
                bob.responses.create(**PLAIN, previous_response_id=answer.id)
        assert (refused.value.param, refused.value.code) == (
            "previous_response_id",
            "response_not_found",
        )

    def test_a_stream_that_its_client_leaves_is_not_kept(
        self, client: openai.OpenAI, shared_daemon: Daemon
    ) -> None:
        stream = client.responses.create(
            **PLAIN, stream=True, max_output_tokens=4000, extra_body={"ignore_eos": True}
        )
        created: Any = next(iter(stream))
        stream.close()
        eventually(lambda: not shared_daemon.model()["is_busy"])
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(created.response.id)


class TestErrors:
    """What cannot be, and what goes wrong."""

    @pytest.mark.parametrize(
        ("said", "param"),
        [
            ({"input": ""}, "input"),
            ({"input": []}, "input"),
            ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
            ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
                "input[0].content[0].type",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
                "input[0].content[0].type",
            ),
            ({"input": [{"role": "user", "content": "x", "mood": 1}]}, "input[0].mood"),
            (
                {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
                "input[0].call_id",
            ),
            ({"background": True}, "background"),
            ({"truncation": "auto"}, "truncation"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"reasoning": {"effort": "low"}}, "reasoning"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"min_tokens": 9, "max_output_tokens": 4}, "min_tokens"),
            ({"temperature": 2.5}, "temperature"),
            ({"top_logprobs": 3}, "top_logprobs"),
            ({"include": ["file_search_call.results"]}, "include[0]"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tools": [WEATHER, WEATHER]}, "tools"),
            ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
            ({"text": {"format": {"type": "regex"}}}, "text.format.type"),
            ({"text": {"verbosity": "low"}}, "text.verbosity"),
            ({"metadata": {"a": 1}}, "metadata[...]"),
            ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
            ({"input": "word " * 9000}, "input"),
        ],
        ids=lambda given: given if isinstance(given, str) else "",
    )
    def test_what_cannot_be_honoured_is_refused_by_name(
        self, client: openai.OpenAI, said: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model=MODEL, input="x", extra_body=said)
        assert refused.value.type == "invalid_request_error"
        assert refused.value.param == param

    def test_no_model_and_no_response_are_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as nobody:
            client.responses.create(model="nobody", input="x")
        assert nobody.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_nothing")

    def test_a_stream_that_fails_says_so_twice_and_is_not_kept(
        self, start_daemon: Callable[..., Daemon]
    ) -> None:
        daemon = start_daemon()
        with client_of(daemon) as client:
            stream = client.responses.create(
                **PLAIN, stream=True, max_output_tokens=4000, extra_body={"ignore_eos": True}
            )
            seen: list[Any] = []

            def follow() -> None:
                for event in stream:
                    if event.type == "response.output_text.delta" and len(daemon.workers()) == 1:
                        daemon.workers()[0].kill()
                    seen.append(event)

            with pytest.raises(openai.APIError) as raised:
                follow()
            assert raised.value.code == "worker_lost"
            failed = seen[-1]
            assert failed.type == "response.failed"
            assert failed.response.status == "failed"
            assert failed.response.error.code == "server_error"
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(failed.response.id)
        daemon.terminate()
        assert QUESTION not in daemon.log_text()


def test_requests_are_counted_under_a_name_of_their_own(
    client: openai.OpenAI, shared_daemon: Daemon
) -> None:
    client.responses.create(**PLAIN, max_output_tokens=1)
    assert 'endpoint="responses"' in shared_daemon.client.get("/metrics").text
