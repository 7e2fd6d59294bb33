"""OpenAI's dialect, in and out."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
import structlog
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lemonade_serve import errors
from lemonade_serve.api.answer import Part, Writer
from lemonade_serve.api.errors import show
from lemonade_serve.api.openai import requests
from lemonade_serve.api.openai.fingerprint import fingerprint_of
from lemonade_serve.api.openai.prompts import MAX_CHOICES, prompts_of
from lemonade_serve.api.openai.timings import timings_of
from lemonade_serve.api.openai.writers import ChatWriter, CompletionWriter
from lemonade_serve.domain.completion import (
    ChatPrompt,
    Finished,
    FinishReason,
    Generation,
    Message,
    TextPrompt,
    Token,
    TokensPrompt,
)
from lemonade_serve.protocol.messages import Started
from lemonade_serve.settings import Worker
from tests.fakes import asynchronous, new_generation
from tests.strict import strictly
from tests.unit.api.conftest import Open

TIMINGS = {
    "cache_n": 3,
    "prompt_n": 4,
    "prompt_ms": 1000.0,
    "prompt_per_token_ms": 250.0,
    "prompt_per_second": 4.0,
    "predicted_n": 2,
    "predicted_ms": 1000.0,
    "predicted_per_token_ms": 500.0,
    "predicted_per_second": 2.0,
}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3},
}


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("text", [TextPrompt("text")]),
        (["text"], [TextPrompt("text")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([1, 2, 0], [TokensPrompt((1, 2, 0))]),
        ([5], [TokensPrompt((5,))]),
        ([[1, 2]], [TokensPrompt((1, 2))]),
        ([[1], [2]], [TokensPrompt((1,)), TokensPrompt((2,))]),
        ([[1], "b"], [TokensPrompt((1,)), TextPrompt("b")]),
        (["a"] * MAX_CHOICES, [TextPrompt("a")] * MAX_CHOICES),
    ],
)
def test_prompts_are_text_or_tokens_one_or_many(
    given: str | list[Any], prompts: list[TextPrompt | TokensPrompt]
) -> None:
    assert prompts_of(requests.CompletionRequest(prompt=given)) == prompts


def test_a_suffix_belongs_to_every_text() -> None:
    wanted = requests.CompletionRequest(prompt=["a", ""], suffix="z")
    assert prompts_of(wanted) == [TextPrompt("a", "z"), TextPrompt("", "z")]
    assert prompts_of(requests.CompletionRequest(prompt="a", suffix="")) == [TextPrompt("a")]


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"prompt": [1, 2], "suffix": "z"}, "suffix"),
        ({"prompt": "a", "suffix": "z", "echo": True}, "echo"),
        ({"prompt": ["a"] * (MAX_CHOICES + 1)}, "prompt"),
        ({"prompt": ["a"] * 2, "n": MAX_CHOICES // 2 + 1}, "prompt"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(said: dict[str, Any], param: str) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        prompts_of(requests.CompletionRequest(**said))
    assert raised.value.param == param


def test_nothing_is_generated_for_an_echo_only() -> None:
    options = requests.CompletionRequest(prompt="a", echo=True, max_tokens=0).options()
    assert (options.max_length, options.min_length) == (0, 0)
    with pytest.raises(errors.InvalidRequest) as raised:
        requests.CompletionRequest(prompt="a", max_tokens=0).options()
    assert raised.value.param == "max_tokens"


@pytest.mark.parametrize(
    "given",
    ["", [], [""], [[]], [1, "x"], [True], [1.5], [None], [{}], [[1], 2], ["a", ""], [[[1]]]],
)
def test_any_other_prompt_is_refused_by_name(given: str | list[Any]) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        prompts_of(requests.CompletionRequest(prompt=given))
    assert raised.value.param == "prompt"


END = Part(0, "", reason="length")
SO_ON = (Part(0, "so"), Part(0, " on"), END)
WHOLE = Part(0, "so on", reason="length")


def generation() -> Generation:
    made = new_generation()
    made.take(Started(1, 7, 3, 101.0))
    made.take(Token(1, "so", 102.0))
    made.take(Token(1, " on", 103.0))
    made.take(Finished(1, "", FinishReason.LENGTH))
    return made


def streamed(writer: Writer[Any], *parts: Part) -> list[dict[str, Any]]:
    made = generation()
    return events(b"".join(writer.part(made, part) for part in parts) + writer.end(made))


def events(stream: bytes) -> list[dict[str, Any]]:
    """The JSON events; the end is checked and left out."""
    *lines, last = stream.decode().removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


class TestChat:
    def stream(self, *, include_usage: bool) -> list[dict[str, Any]]:
        return streamed(ChatWriter(include_usage=include_usage), *SO_ON)

    def test_a_stream_is_chunks_with_the_role_first_and_the_reason_last(self) -> None:
        chunks = [ChatCompletionChunk.model_validate(c) for c in self.stream(include_usage=False)]
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert [delta.role for delta in deltas] == ["assistant", None, None, None]
        assert [delta.content for delta in deltas] == ["", "so", " on", None]
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons == [None, None, None, "length"]
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
        assert chunks[0].id.startswith("chatcmpl-")

    def test_usage_comes_last_and_only_when_asked_for(self) -> None:
        assert not [chunk for chunk in self.stream(include_usage=False) if "usage" in chunk]
        *others, last = self.stream(include_usage=True)
        assert [chunk["usage"] for chunk in others] == [None] * 4
        assert (last["choices"], last["usage"]) == ([], USAGE)
        assert "timings" not in others[-1]
        assert last["timings"] == TIMINGS
        strictly(ChatCompletionChunk, last, beyond=["timings"])

    def test_timings_come_with_the_last_reason_where_no_usage_does(self) -> None:
        *others, last = self.stream(include_usage=False)
        assert not [chunk for chunk in others if "timings" in chunk]
        assert last["timings"] == TIMINGS

    def test_an_answer_without_text_has_a_role_all_the_same(self) -> None:
        first, last = streamed(ChatWriter(include_usage=False), END)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert last["choices"][0]["delta"] == {}

    def test_a_whole_answer_is_one_object(self) -> None:
        whole = ChatWriter(include_usage=False).whole(generation(), [WHOLE])
        answer = strictly(ChatCompletion, plain(whole), beyond=["timings"])
        assert plain(whole)["timings"] == TIMINGS
        assert answer.choices[0].message.content == "so on"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage
        assert answer.usage.total_tokens == 9

    def test_each_choice_of_a_stream_has_a_role_and_a_reason(self) -> None:
        parts = [Part(1, "b"), Part(0, "a"), Part(1, "", reason="stop"), Part(0, "", reason="stop")]
        chunks = streamed(ChatWriter(include_usage=False), *parts)
        for index, text in ((0, "a"), (1, "b")):
            own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
            assert [choice["delta"] for choice in own] == [
                {"role": "assistant", "content": ""},
                {"content": text},
                {},
            ]
            assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]

    def test_two_answers_have_two_ids(self) -> None:
        assert ChatWriter(include_usage=False).id != ChatWriter(include_usage=False).id


def test_the_timings_of_nothing_are_nothing() -> None:
    timings = timings_of(new_generation())
    assert set(msgspec.structs.astuple(timings)) == {0}


def test_a_fingerprint_is_of_what_answers() -> None:
    one, other = new_generation(), new_generation()
    assert fingerprint_of(one) == fingerprint_of(other)
    other.engine = "batched"
    assert fingerprint_of(one) != fingerprint_of(other)
    assert re.fullmatch("fp_[0-9a-f]{10}", fingerprint_of(one))


class TestCompletions:
    def stream(self, *, include_usage: bool) -> list[dict[str, Any]]:
        return streamed(CompletionWriter(include_usage=include_usage), *SO_ON)

    def test_a_stream_is_objects_with_the_reason_last(self) -> None:
        choices = [event["choices"][0] for event in self.stream(include_usage=False)]
        assert [choice["text"] for choice in choices] == ["so", " on", ""]
        assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]
        assert {event["object"] for event in self.stream(include_usage=False)} == {
            "text_completion"
        }

    def test_usage_comes_last_and_only_when_asked_for(self) -> None:
        assert not [event for event in self.stream(include_usage=False) if "usage" in event]
        *others, last = self.stream(include_usage=True)
        assert [event["usage"] for event in others] == [None] * 3
        assert (last["choices"], last["usage"]) == ([], USAGE)

    def test_a_whole_answer_is_one_object(self) -> None:
        whole = CompletionWriter(include_usage=False).whole(generation(), [WHOLE])
        answer = strictly(Completion, plain(whole), beyond=["timings"])
        assert plain(whole)["timings"] == TIMINGS
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("so on", "length")
        assert answer.id.startswith("cmpl-")


@pytest.mark.parametrize("writer", [ChatWriter, CompletionWriter])
def test_an_error_in_a_stream_is_openais_error_object(
    writer: type[ChatWriter | CompletionWriter],
) -> None:
    sent = writer(include_usage=False).error(show(errors.WorkerLost("it died")))
    assert json.loads(sent.removeprefix(b"data: ")) == {
        "error": {
            "message": "it died",
            "type": "server_error",
            "param": None,
            "code": "worker_lost",
        }
    }


class TestOverHTTP:
    @asynchronous
    async def test_a_completion_is_answered_whole(self, open_house: Open) -> None:
        async with open_house() as house:
            body = {"model": "small", "prompt": "two words", "max_tokens": 3}
            answer = await house.client.post("/v1/completions", json=body)
            completion = Completion.model_validate(answer.json())
            assert completion.choices[0].text == "so it goes"
            assert completion.model == "small"
            assert completion.usage
            assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (2, 3)

    @asynchronous
    async def test_a_stream_says_what_the_whole_says(self, open_house: Open) -> None:
        async with open_house() as house:
            body = {"model": "small", "prompt": "x", "max_tokens": 3, "stream": True}
            answer = await house.client.post("/v1/completions", json=body)
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-accel-buffering"] == "no"
            said = [event["choices"][0]["text"] for event in events(_without_pings(answer.content))]
            assert "".join(said) == "so it goes"

    @pytest.mark.parametrize("prefix", ["/v1", "/api/v1", "/api/v0"])
    def test_a_chat_is_answered_under_every_prefix(self, open_house: Open, prefix: str) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
                body = {
                    "model": "small",
                    "max_completion_tokens": 2,
                    "max_tokens": 9,
                    "messages": [
                        {"role": "developer", "content": "Be brief."},
                        {"role": "user", "content": parts},
                    ],
                }
                answer = await house.client.post(f"{prefix}/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                chat = ChatCompletion.model_validate(answer.json())
                assert chat.choices[0].message.content == "so it"
                turns = (Message("developer", "Be brief."), Message("user", "ab"))
                assert house.launcher.workers[0].prompts == [ChatPrompt(turns)]

        ask()

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            {"role": "wizard", "content": "x"},
            {"role": "user"},
        ],
    )
    def test_a_message_that_cannot_be_read_is_refused(
        self, open_house: Open, message: dict[str, Any]
    ) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                body = {"model": "small", "messages": [message]}
                answer = await house.client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 400
                assert "messages" in json.dumps(answer.json())

        ask()

    @pytest.mark.parametrize(
        ("path", "prompt"),
        [
            ("/v1/completions", {"prompt": "two words"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "two words"}]}),
        ],
    )
    def test_several_choices_are_of_one_prompt(
        self, open_house: Open, path: str, prompt: dict[str, Any]
    ) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                body = {"model": "small", **prompt, "max_tokens": 3, "n": 3}
                answer = (await house.client.post(path, json=body)).json()
                assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
                texts = [c.get("text") or c["message"]["content"] for c in answer["choices"]]
                assert texts == ["so it goes"] * 3
                assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
                usage = answer["usage"]
                assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 9)

                body |= {"stream": True, "stream_options": {"include_usage": True}}
                stream = await house.client.post(path, json=body)
                *chunks, last = events(_without_pings(stream.content))
                assert (last["choices"], last["usage"]) == ([], usage)
                said = {0: "", 1: "", 2: ""}
                for choice in (chunk["choices"][0] for chunk in chunks):
                    text = choice.get("text") or choice.get("delta", {}).get("content")
                    said[choice["index"]] += text or ""
                assert said == dict.fromkeys(said, "so it goes")
                assert [work.n for work in house.launcher.workers[0].works] == [3, 3]

        ask()

    @asynchronous
    async def test_a_client_s_requests_reach_the_worker_in_its_name(self, open_house: Open) -> None:
        worker = Worker(client_weights={"ann": 2.0})
        async with open_house(worker=worker) as house:
            for client in ("ann", "bob"):
                body = {"model": "small", "prompt": "x", "max_tokens": 1}
                headers = {"X-Client-Id": client}
                await house.client.post("/v1/completions", json=body, headers=headers)
            works = house.launcher.workers[0].works
            assert [(work.client, work.weight) for work in works] == [("ann", 2.0), ("bob", 1.0)]

    @asynchronous
    async def test_logprobs_are_of_every_token_streamed_or_not(self, open_house: Open) -> None:
        async with open_house() as house:
            body: dict[str, Any] = {"model": "small", "prompt": "x", "max_tokens": 3, "logprobs": 2}
            whole = Completion.model_validate(
                (await house.client.post("/v1/completions", json=body)).json()
            )
            assert whole.choices[0].logprobs
            assert whole.choices[0].logprobs.tokens == ["so", " it", " goes"]
            assert whole.choices[0].logprobs.text_offset == [0, 2, 5]
            stream = await house.client.post("/v1/completions", json={**body, "stream": True})
            pieces = [event["choices"][0] for event in events(_without_pings(stream.content))]
            told = [token for p in pieces if p["logprobs"] for token in p["logprobs"]["tokens"]]
            assert told == whole.choices[0].logprobs.tokens
            (params, _) = house.launcher.workers[0].params
            assert params.logprobs == 2

    @asynchronous
    async def test_likely_tokens_are_for_those_who_ask_for_logprobs(self, open_house: Open) -> None:
        async with open_house() as house:
            body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
            for said in ({}, {"logprobs": False}):
                asked = {**body, **said, "top_logprobs": 0}
                answer = await house.client.post("/v1/chat/completions", json=asked)
                assert answer.json()["error"]["param"] == "top_logprobs"
            asked = {**body, "logprobs": True, "top_logprobs": 2, "max_tokens": 1}
            answer = await house.client.post("/v1/chat/completions", json=asked)
            chat = ChatCompletion.model_validate(answer.json())
            assert chat.choices[0].logprobs
            (token,) = chat.choices[0].logprobs.content or []
            assert (token.token, len(token.top_logprobs)) == ("so", 2)

    @pytest.mark.parametrize("bias", [{"x": 1}, {"-1": 1}, {"5": 101}, {"5": "1"}])
    def test_a_bias_that_cannot_be_is_refused_by_name(
        self, open_house: Open, bias: dict[str, Any]
    ) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                body = {"model": "small", "prompt": "x", "logit_bias": bias}
                answer = await house.client.post("/v1/completions", json=body)
                assert answer.status_code == 400
                assert answer.json()["error"]["param"].startswith("logit_bias")

        ask()

    @asynchronous
    async def test_models_are_those_on_disk(self, open_house: Open) -> None:
        async with open_house() as house:
            listed = (await house.client.get("/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["org/large", "small"]
            one = await house.client.get("/v1/models/org/large")
            assert one.json() == listed["data"][0]
            assert (await house.client.get("/v1/models/nobody")).status_code == 404
            assert house.launcher.launches == []

    @asynchronous
    async def test_every_post_answers_200_and_not_201(self, open_house: Open) -> None:
        async with open_house() as house:
            chat = {"messages": [{"role": "user", "content": "x"}]}
            for path, body in (
                ("/v1/completions", {"prompt": "x"}),
                ("/v1/chat/completions", chat),
                ("/api/v0/completions", {"prompt": "x"}),
                ("/api/v0/load", {}),
                ("/api/v0/unload", {}),
            ):
                answer = await house.client.post(path, json={"model": "small", **body})
                assert answer.status_code == 200, path

    @asynchronous
    async def test_a_worker_lost_before_the_first_token_is_an_honest_status(
        self, open_house: Open
    ) -> None:
        async with open_house() as house:
            await house.client.post("/api/v0/load", json={"model": "small"})
            (worker,) = house.launcher.workers
            worker.break_with(errors.WorkerLost("it died"))
            for stream in (True, False):
                body = {"model": "small", "prompt": "x", "stream": stream}
                with structlog.testing.capture_logs() as lines:
                    answer = await house.client.post("/v1/completions", json=body)
                assert answer.status_code == 500
                assert answer.json()["error"]["code"] == "worker_lost"
                assert (lines[-1]["outcome"], lines[-1]["code"]) == ("error", "worker_lost")

    @asynchronous
    async def test_what_fails_in_a_stream_is_its_last_event(self, open_house: Open) -> None:
        async with open_house() as house:
            await house.client.post("/api/v0/load", json={"model": "small"})
            (worker,) = house.launcher.workers
            worker.break_with(errors.WorkerLost("it died"), after=2)
            body = {"model": "small", "prompt": "x", "stream": True}
            with structlog.testing.capture_logs() as lines:
                answer = await house.client.post("/v1/completions", json=body)
            assert [line["event"] for line in lines] == ["stream_failed", "request_finished"]
            assert (lines[-1]["status"], lines[-1]["outcome"]) == (200, "error")
            assert lines[-1]["code"] == "worker_lost"
            assert answer.status_code == 200
            *texts, last = _without_pings(answer.content).removesuffix(b"\n\n").split(b"\n\n")
            said = [json.loads(t.removeprefix(b"data: "))["choices"][0]["text"] for t in texts]
            assert said == ["so", " it"]
            assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "worker_lost"


def _without_pings(stream: bytes) -> bytes:
    return stream.replace(b": ping\n\n", b"")


def plain(body: object) -> Any:
    return json.loads(msgspec.json.encode(body))


@asynchronous
async def test_unknown_query_parameters_are_refused_by_name(open_house: Open) -> None:
    async with open_house() as house:
        answer = await house.client.get("/v1/models?limit=1")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "limit"


@asynchronous
async def test_what_contradicts_itself_is_named_in_openais_words(open_house: Open) -> None:
    async with open_house(default_model="small") as house:
        body = {"prompt": "x", "max_tokens": 1, "min_tokens": 2}
        answer = await house.client.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "min_tokens")


@asynchronous
@pytest.mark.parametrize("parallel", [True, False, None])
async def test_tool_calls_may_be_parallel_or_not_where_there_are_none(
    open_house: Open, parallel: bool | None
) -> None:
    async with open_house(default_model="small") as house:
        body = {
            "messages": [{"role": "user", "content": "x"}],
            "parallel_tool_calls": parallel,
            "max_tokens": 1,
        }
        assert (await house.client.post("/v1/chat/completions", json=body)).status_code == 200
