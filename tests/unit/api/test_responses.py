"""The Responses API, in and out; every body and every event strictly as the openai package has
them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent

from lemonade_serve import errors
from lemonade_serve.api.answer import Drawn, Part
from lemonade_serve.api.errors import show
from lemonade_serve.api.responses import items, schemas
from lemonade_serve.api.responses.routes import _blank
from lemonade_serve.api.responses.writer import ResponseWriter
from lemonade_serve.domain.completion import (
    ChatPrompt,
    Finished,
    FinishReason,
    Generation,
    Logprob,
    Message,
    Token,
    ToolCall,
)
from lemonade_serve.domain.tools import CallPart
from lemonade_serve.protocol.messages import Started
from lemonade_serve.settings import Responses
from tests.fakes import asynchronous, new_generation, until
from tests.strict import strictly
from tests.unit.api.conftest import House, Open

END = Part(0, "", reason="stop")
CUT = Part(0, "", reason="length")
PARIS = CallPart(0, "call_1", "weather", '{"city": ')
PARIS_ENDS = CallPart(0, arguments='"Paris"}')
ROME = CallPart(1, "call_2", "weather", '{"city": "Rome"}')
FIRST = ["response.created", "response.in_progress"]
OPENED = ["response.output_item.added", "response.content_part.added"]
CLOSED = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
CALLED = ["response.function_call_arguments.done", "response.output_item.done"]
DELTA, ARGUMENTS = "response.output_text.delta", "response.function_call_arguments.delta"


def generation() -> Generation:
    made = new_generation()
    made.take(Started(1, 7, 3, 101.0))
    made.take(Token(1, "so", 102.0))
    made.take(Token(1, " on", 103.0))
    made.take(Finished(1, "", FinishReason.STOP))
    return made


class Written:
    """What a writer makes of the parts of an answer."""

    def __init__(self, *parts: Part, **said: Any) -> None:
        self.kept: list[schemas.Response] = []
        asked = msgspec.convert({"input": "x", **said}, schemas.ResponseRequest)
        self.writer = ResponseWriter(_blank(asked), self.kept.append)
        self._parts = parts

    def whole(self, part: Part) -> Response:
        return strictly(Response, plain(self.writer.whole(generation(), [part])))

    def stream(self) -> list[Any]:
        made = generation()
        sent = [self.writer.begin(made), *(self.writer.part(made, part) for part in self._parts)]
        return events(b"".join(sent) + self.writer.end(made))


def plain(body: object) -> Any:
    return json.loads(msgspec.json.encode(body))


def events(stream: bytes, *, beyond: Sequence[str] = ()) -> list[Any]:
    """Read strictly; their names and numbers are checked."""
    read: list[Any] = []
    for number, one in enumerate(stream.decode().removesuffix("\n\n").split("\n\n")):
        name, data = one.split("\n")
        event: Any = strictly(
            ResponseStreamEvent,  # type: ignore[arg-type]
            json.loads(data.removeprefix("data: ")),
            beyond=beyond,
        )
        assert name == f"event: {event.type}"
        assert event.sequence_number == number
        read.append(event)
    return read


def kinds(read: Sequence[Any]) -> list[str]:
    return [event.type for event in read]


class TestStreams:
    def test_a_text_is_a_message_that_opens_grows_and_closes(self) -> None:
        read = Written(Part(0, "so"), Part(0, " on"), END).stream()
        assert kinds(read) == [*FIRST, *OPENED, DELTA, DELTA, *CLOSED, "response.completed"]
        assert [event.delta for event in read if event.type == DELTA] == ["so", " on"]
        response = read[-1].response
        assert response.output_text == "so on"
        assert response.output == [read[-2].item]
        assert {event.response.id for event in read if hasattr(event, "response")} == {response.id}
        assert {event.item_id for event in read if hasattr(event, "item_id")} == {
            response.output[0].id
        }
        assert read[0].response.status == read[1].response.status == "in_progress"
        assert read[0].response.usage is None
        assert read[2].item.content == []

    def test_one_that_is_cut_is_incomplete(self) -> None:
        *_, item, last = Written(Part(0, "so"), CUT).stream()
        assert last.type == "response.incomplete"
        assert last.response.status == item.item.status == "incomplete"
        assert last.response.incomplete_details.reason == "max_output_tokens"
        assert last.response.completed_at is None

    def test_one_without_text_has_an_empty_message(self) -> None:
        read = Written(END).stream()
        assert kinds(read) == [*FIRST, *OPENED, *CLOSED, "response.completed"]
        assert read[-1].response.output_text == ""
        assert len(read[-1].response.output) == 1

    def test_calls_are_items_of_their_own_one_after_the_other(self) -> None:
        read = Written(
            Part(0, "I look.", calls=[PARIS]),
            Part(0, "", calls=[PARIS_ENDS]),
            Part(0, "", calls=[ROME]),
            Part(0, "", reason="tool_calls"),
        ).stream()
        added = "response.output_item.added"
        assert kinds(read) == [
            *FIRST,
            *(*OPENED, DELTA, *CLOSED),
            *(added, ARGUMENTS, ARGUMENTS, *CALLED),
            *(added, ARGUMENTS, *CALLED),
            "response.completed",
        ]
        assert [e.output_index for e in read if hasattr(e, "output_index")] == sorted(
            e.output_index for e in read if hasattr(e, "output_index")
        )
        message, paris, rome = read[-1].response.output
        assert message.content[0].text == "I look."
        assert (paris.call_id, paris.name, paris.arguments) == (
            "call_1",
            "weather",
            '{"city": "Paris"}',
        )
        assert (rome.call_id, rome.arguments) == ("call_2", '{"city": "Rome"}')
        assert [e.item for e in read if e.type == "response.output_item.done"] == [
            message,
            paris,
            rome,
        ]

    def test_calls_alone_bring_no_message(self) -> None:
        read = Written(Part(0, "", calls=[ROME]), Part(0, "", reason="tool_calls")).stream()
        assert [item.type for item in read[-1].response.output] == ["function_call"]

    def test_text_after_a_call_is_another_message(self) -> None:
        read = Written(Part(0, "", calls=[ROME]), Part(0, "so"), END).stream()
        assert [item.type for item in read[-1].response.output] == ["function_call", "message"]

    def test_an_error_is_a_failed_response_and_what_a_client_raises(self) -> None:
        written = Written()
        made = generation()
        sent = written.writer.begin(made) + written.writer.part(made, Part(0, "so"))
        sent += written.writer.error(show(errors.WorkerLost("it died")))
        *_, failed, error = events(sent, beyond=["error"])
        assert failed.response.status == "failed"
        assert (failed.response.error.code, failed.response.error.message) == (
            "server_error",
            "it died",
        )
        assert failed.response.output[0].status == "incomplete"
        assert (error.code, error.message, error.param) == ("worker_lost", "it died", None)
        assert b'"error":{"message":"it died","type":"server_error"' in sent
        assert not written.kept

    @pytest.mark.parametrize(
        ("error", "word"),
        [
            (errors.ContextLengthExceeded(param="messages"), "invalid_prompt"),
            (errors.QueueFull(), "rate_limit_exceeded"),
            (errors.NoCapacity(), "server_error"),
        ],
    )
    def test_a_failed_response_has_the_nearest_of_openais_words(
        self, error: errors.LemonadeError, word: str
    ) -> None:
        failed, event = events(Written().writer.error(show(error)), beyond=["error"])
        assert failed.response.error.code == word
        assert event.code == error.code
        assert event.param == ("input" if error.param else None)


class TestWholes:
    def test_a_whole_answer_says_what_its_stream_says(self) -> None:
        calls = [CallPart(0, "call_1", "weather", "{}"), ROME]
        whole = Written().whole(Part(0, "so on", (), "tool_calls", calls))
        assert whole.status == "completed"
        assert [item.type for item in whole.output] == ["message", "function_call", "function_call"]
        assert whole.output_text == "so on"
        assert whole.usage is not None
        assert plain(whole.usage.model_dump()) == {
            "input_tokens": 7,
            "input_tokens_details": {
                "cached_tokens": 3,
                "cache_write_tokens": 0,
                "cache_write_tokens_details": None,
            },
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 9,
        }

    def test_it_says_again_what_was_asked(self) -> None:
        tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
        form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
        said = {
            "instructions": "Be brief.",
            "previous_response_id": "resp_1",
            "max_output_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.9,
            "text": {"format": form},
            "tools": [tool],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "metadata": {"a": "b"},
            "user": "u",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
        }
        whole = Written(**said).whole(Part(0, "{}", reason="stop"))
        told = whole.model_dump(by_alias=True, exclude_none=True)
        assert {name: told[name] for name in said} == said

    def test_only_what_came_to_its_end_is_kept(self) -> None:
        written = Written()
        written.whole(Part(0, "so on", reason="length"))
        assert [response.status for response in written.kept] == ["incomplete"]


class TestLogprobs:
    def drawn(self, text: bytes) -> Drawn:
        return (Logprob(1, text, -0.5), Logprob(1, text, -0.5), Logprob(2, b"x", -1.0))

    def test_a_whole_text_has_those_of_all_tokens(self) -> None:
        drawn = [self.drawn(b"so"), self.drawn(b"")]
        whole = Written().whole(Part(0, "so", drawn, "stop"))
        content: Any = whole.output[0]
        first, end = content.content[0].logprobs
        assert (first.token, first.bytes, first.logprob) == ("so", [115, 111], -0.5)
        assert [likely.token for likely in first.top_logprobs] == ["so", "x"]
        assert end.token == ""

    def test_a_stream_has_them_with_their_text_and_in_the_end_all(self) -> None:
        read = Written(
            Part(0, "so", [self.drawn(b"so")]), Part(0, "", [self.drawn(b"")], "stop")
        ).stream()
        (delta,) = (event for event in read if event.type == DELTA)
        done = next(event for event in read if event.type == CLOSED[0])
        assert [token.token for token in delta.logprobs] == ["so"]
        assert [token.token for token in done.logprobs] == ["so", ""]
        assert len(read[-1].response.output[0].content[0].logprobs) == 2


def read(*given: dict[str, Any]) -> list[schemas.InputItem]:
    return items.read(msgspec.convert(list(given), list[schemas.InputItem]))


CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "4"}


class TestInput:
    def test_a_text_is_the_users(self) -> None:
        assert items.converse((), items.read("Hi")) == [Message("user", "Hi")]

    def test_messages_are_texts_or_parts(self) -> None:
        said = {"type": "output_text", "text": "so", "annotations": [], "logprobs": []}
        given = read(
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": t} for t in ("a", "b")],
                "type": "message",
            },
            {"role": "assistant", "content": [said], "id": "msg_1", "status": "completed"},
        )
        assert items.converse((), given) == [
            Message("developer", "Be brief."),
            Message("user", "ab"),
            Message("assistant", "so"),
        ]

    def test_calls_are_of_the_turn_that_they_come_in(self) -> None:
        second = {**CALL, "call_id": "call_2", "id": "fc_1"}
        given = read({"role": "assistant", "content": "I look."}, CALL, second, OUTPUT, CALL)
        one, two = ToolCall("call_1", "f", "{}"), ToolCall("call_2", "f", "{}")
        assert items.converse((), given) == [
            Message("assistant", "I look.", tool_calls=(one, two)),
            Message("tool", "4", "f", tool_call_id="call_1"),
            Message("assistant", "", tool_calls=(one,)),
        ]

    def test_an_output_may_be_of_a_call_of_the_conversation_before(self) -> None:
        before = [Message("assistant", "", tool_calls=(ToolCall("call_1", "f", "{}"),))]
        parts = [{"type": "input_text", "text": "4"}]
        after = items.converse(before, read({**OUTPUT, "output": parts}))
        assert after == [*before, Message("tool", "4", "f", tool_call_id="call_1")]

    def test_an_output_of_no_call_is_refused(self) -> None:
        with pytest.raises(errors.InvalidRequest) as refused:
            items.converse((), read({"role": "user", "content": "x"}, OUTPUT, CALL))
        assert refused.value.param == "input[1].call_id"

    @pytest.mark.parametrize(
        ("item", "field"),
        [
            ({"role": "user"}, "content"),
            ({"content": "x"}, "role"),
            ({"role": "user", "content": "x", "output": "y"}, "output"),
            ({**CALL, "role": "assistant"}, "role"),
            ({**OUTPUT, "name": "f"}, "name"),
            ({"type": "function_call", "call_id": "c", "name": "f"}, "arguments"),
            ({"type": "function_call_output", "call_id": "c"}, "output"),
        ],
    )
    def test_an_item_has_the_fields_of_its_type_alone(
        self, item: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as refused:
            read({"role": "user", "content": "x"}, item)
        assert refused.value.param == f"input[1].{field}"

    def test_a_conversation_goes_on_with_what_was_answered(self) -> None:
        output: list[schemas.OutputItem] = [
            schemas.OutputMessage(
                id="m", status="completed", content=[schemas.OutputText(text="I look.")]
            ),
            schemas.FunctionCall(
                id="f", status="completed", call_id="call_1", name="f", arguments="{}"
            ),
        ]
        assert items.answered([Message("user", "Hi")], output) == [
            Message("user", "Hi"),
            Message("assistant", "I look.", tool_calls=(ToolCall("call_1", "f", "{}"),)),
        ]


async def ask(house: House, input: Any, **more: Any) -> dict[str, Any]:
    client = more.pop("client", "ali")
    body = {"model": "small", "input": input, "max_output_tokens": 2, **more}
    answer = await house.client.post("/v1/responses", json=body, headers={"X-Client-Id": client})
    assert answer.status_code == 200, answer.text
    strictly(Response, answer.json())
    told: dict[str, Any] = answer.json()
    return told


async def status_of(house: House, id: str, client: str = "ali", verb: str = "GET") -> int:
    answer = await house.client.request(
        verb, f"/v1/responses/{id}", headers={"X-Client-Id": client}
    )
    if answer.status_code == 404:
        assert answer.json()["error"]["code"] == "response_not_found"
    return answer.status_code


class TestOverHTTP:
    @pytest.mark.parametrize("prefix", ["/v1", "/api/v1", "/api/v0"])
    def test_it_answers_under_every_prefix(self, open_house: Open, prefix: str) -> None:
        @asynchronous
        async def go() -> None:
            async with open_house() as house:
                body = {"model": "small", "input": "Hi", "instructions": "Be brief."}
                answer = await house.client.post(f"{prefix}/responses", json=body)
                strictly(Response, answer.json())
                turns = (Message("system", "Be brief."), Message("user", "Hi"))
                assert house.launcher.workers[0].prompts == [ChatPrompt(turns)]
                path = f"{prefix}/responses/{answer.json()['id']}"
                assert (await house.client.get(path)).json() == answer.json()

        go()

    @asynchronous
    async def test_a_chain_has_all_that_was_said_and_only_the_last_instructions(
        self, open_house: Open
    ) -> None:
        async with open_house() as house:
            one = await ask(house, "One?", instructions="Be brief.")
            two = await ask(house, "Two?", previous_response_id=one["id"])
            await ask(house, "Three?", previous_response_id=two["id"], instructions="Be kind.")
            assert two["previous_response_id"] == one["id"]
            said = Message("assistant", "so it")
            assert house.launcher.workers[0].prompts[1:] == [
                ChatPrompt((Message("user", "One?"), said, Message("user", "Two?"))),
                ChatPrompt(
                    (
                        Message("system", "Be kind."),
                        *(Message("user", "One?"), said, Message("user", "Two?"), said),
                        Message("user", "Three?"),
                    )
                ),
            ]

    @asynchronous
    async def test_a_stream_is_kept_as_a_whole_answer_is(self, open_house: Open) -> None:
        async with open_house() as house:
            body = {"model": "small", "input": "Hi", "stream": True, "max_output_tokens": 2}
            answer = await house.client.post("/v1/responses", json=body)
            assert answer.headers["content-type"].startswith("text/event-stream")
            *_, last = events(answer.content)
            kept = await house.client.get(f"/v1/responses/{last.response.id}")
            assert strictly(Response, kept.json()) == last.response

    @asynchronous
    async def test_a_client_has_its_own_alone(self, open_house: Open) -> None:
        async with open_house() as house:
            one = await ask(house, "Hi", client="ali")
            assert await status_of(house, one["id"], "bob") == 404
            assert await status_of(house, one["id"], "bob", "DELETE") == 404
            body = {"model": "small", "input": "x", "previous_response_id": one["id"]}
            answer = await house.client.post(
                "/v1/responses", json=body, headers={"X-Client-Id": "bob"}
            )
            assert answer.status_code == 404
            assert answer.json()["error"]["param"] == "previous_response_id"
            assert await status_of(house, one["id"], "ali") == 200

    @asynchronous
    async def test_what_is_deleted_or_not_to_be_stored_is_gone(self, open_house: Open) -> None:
        async with open_house() as house:
            one = await ask(house, "Hi")
            two = await ask(house, "Ho", previous_response_id=one["id"])
            assert await status_of(house, one["id"], verb="DELETE") == 200
            assert await status_of(house, one["id"]) == 404
            assert await status_of(house, two["id"]) == 200
            three = await ask(house, "Hi", store=False)
            assert await status_of(house, three["id"]) == 404

    @asynchronous
    async def test_the_settings_bound_what_is_kept(self, open_house: Open) -> None:
        async with open_house(responses=Responses(max_kept=2)) as house:
            ids = [(await ask(house, "Hi"))["id"] for _ in range(3)]
            assert [await status_of(house, id) for id in ids] == [404, 200, 200]
        async with open_house(responses=Responses(max_kept_bytes=10)) as house:
            assert await status_of(house, (await ask(house, "Hi"))["id"]) == 404

    @asynchronous
    async def test_what_is_past_its_time_goes_though_nobody_asks(self, open_house: Open) -> None:
        async with open_house(responses=Responses(keep_s=0.01)) as house:
            await ask(house, "Hi")
            conversations = house.application.conversations
            await until(lambda: not len(conversations))
            assert conversations.kept_bytes == 0

    @asynchronous
    async def test_the_items_of_an_input_are_listed_in_pages(self, open_house: Open) -> None:
        async with open_house() as house:
            said = [{"role": "user", "content": "Hi"}, CALL, OUTPUT]
            said.append({"role": "assistant", "content": "so"})
            path = f"/v1/responses/{(await ask(house, said))['id']}/input_items"
            headers = {"X-Client-Id": "ali"}

            async def page(**query: Any) -> Any:
                answer = await house.client.get(path, params=query, headers=headers)
                return strictly(ResponseItemList, answer.json())

            everything = await page(order="asc")
            kinds = ["message", "function_call", "function_call_output", "message"]
            assert [item.type for item in everything.data] == kinds
            assert not everything.has_more
            assert everything.data[::-1] == (await page()).data
            first = await page(limit=3)
            rest = await page(limit=3, after=first.last_id)
            assert (first.has_more, rest.has_more) == (True, False)
            assert [*first.data, *rest.data] == everything.data[::-1]
            for query in ({"after": "msg_x"}, {"limit": 0}, {"order": "up"}, {"before": "x"}):
                answer = await house.client.get(path, params=query, headers=headers)
                assert answer.status_code == 400, query
                assert answer.json()["error"]["param"] in query

    @asynchronous
    async def test_errors_name_the_fields_of_this_api(self, open_house: Open) -> None:
        async with open_house() as house:
            body = {"model": "small", "input": "x", "min_tokens": 5, "max_output_tokens": 2}
            answer = await house.client.post("/v1/responses", json=body)
            assert answer.json()["error"]["param"] == "min_tokens"
