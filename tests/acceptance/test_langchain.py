"""`langchain-openai`, as its users write it, against a real daemon and a real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.daemon import MODEL, Daemon

QUESTION = "In which city is the Eiffel Tower?"


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may reach the internet: neither LangSmith's traces nor tiktoken's tables."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
        monkeypatch.setenv(name, "false")
    for name in ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def how(shared_daemon: Daemon) -> Iterator[dict[str, Any]]:
    """Keywords by which a model of LangChain's finds the daemon."""
    path = str(shared_daemon.socket)
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as http:
        yield {
            "base_url": "http://daemon/v1",
            "api_key": "any",
            "model": MODEL,
            "temperature": 0,
            "max_retries": 0,
            "http_client": http,
        }


@pytest.fixture
def chat(how: dict[str, Any]) -> ChatOpenAI:
    return ChatOpenAI(**how, max_tokens=32)


def asynchronous(how: dict[str, Any], daemon: Daemon) -> tuple[ChatOpenAI, httpx.AsyncClient]:
    http = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(daemon.socket)))
    return ChatOpenAI(**how, max_tokens=32, http_async_client=http), http


class TestChat:
    def test_it_is_invoked(self, chat: ChatOpenAI) -> None:
        answer = chat.invoke([SystemMessage("You answer in one sentence."), HumanMessage(QUESTION)])
        assert isinstance(answer, AIMessage)
        assert "Paris" in answer.text
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] > 0
        assert answer.response_metadata["finish_reason"] == "stop"
        assert answer.response_metadata["system_fingerprint"].startswith("fp_")

    def test_it_streams_what_it_says(self, chat: ChatOpenAI) -> None:
        chunks = list(chat.stream(QUESTION, stream_usage=True))
        assert len(chunks) > 3
        assert "".join(chunk.text for chunk in chunks) == chat.invoke(QUESTION).text
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert whole.usage_metadata is not None
        assert whole.usage_metadata["input_tokens"] > 0

    def test_it_answers_many_at_once(self, chat: ChatOpenAI) -> None:
        questions: list[Any] = [QUESTION, "What is two plus two?", "Say hello."]
        answers = chat.batch(questions)
        assert [answer.text for answer in answers] == [chat.invoke(q).text for q in questions]

    def test_it_is_a_link_of_a_chain(self, chat: ChatOpenAI) -> None:
        prompt = ChatPromptTemplate.from_messages([("user", "In which city is the {thing}?")])
        assert "Paris" in (prompt | chat).invoke({"thing": "Eiffel Tower"}).text

    def test_it_tells_log_probabilities(self, chat: ChatOpenAI) -> None:
        answer = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
        told = answer.response_metadata["logprobs"]["content"]
        assert len(told) == answer.usage_metadata["output_tokens"]  # type: ignore[index]

    def test_it_has_an_asynchronous_half(self, how: dict[str, Any], shared_daemon: Daemon) -> None:
        async def ask() -> tuple[str, str, list[str]]:
            chat, http = asynchronous(how, shared_daemon)
            async with http:
                answer = await chat.ainvoke(QUESTION)
                pieces = [chunk.text async for chunk in chat.astream(QUESTION)]
                batch = await chat.abatch([QUESTION, QUESTION])
            return answer.text, "".join(pieces), [one.text for one in batch]

        answer, streamed, batch = asyncio.run(ask())
        assert "Paris" in answer
        assert streamed == answer
        assert batch == [answer, answer]


def test_a_plain_model_completes_many_prompts_in_one_request(how: dict[str, Any]) -> None:
    model = OpenAI(**how, max_tokens=4, batch_size=20)
    prompts = ["The capital of France is", "One, two, three,"]
    answer = model.generate(prompts)
    assert [own[0].text for own in answer.generations] == [model.invoke(one) for one in prompts]
    assert "Paris" in answer.generations[0][0].text
    assert "".join(model.stream(prompts[0])) == model.invoke(prompts[0])


class Fruit(BaseModel):
    """A fruit, and what it is like."""

    name: str = Field(max_length=12)
    taste: Literal["sweet", "sour", "bitter"]
    ripe: bool


class TestStructuredOutput:
    @pytest.mark.parametrize("strict", [None, True])
    def test_an_answer_is_the_model_that_was_asked_for(
        self, chat: ChatOpenAI, strict: bool | None
    ) -> None:
        structured = chat.with_structured_output(Fruit, method="json_schema", strict=strict)
        fruit = structured.invoke("Describe a lemon.")
        assert isinstance(fruit, Fruit)

    def test_any_json_will_do(self, how: dict[str, Any]) -> None:
        chat = ChatOpenAI(**how, max_tokens=64)
        structured = chat.with_structured_output(None, method="json_mode")
        asked = 'Answer with the JSON object {"ok": true} and nothing else.'
        assert structured.invoke(asked) == {"ok": True}


@tool
def weather(city: str, unit: Literal["C", "F"]) -> str:
    """What the weather in a city is like."""
    return f"It is 20 degrees {unit} in {city}."


class TestTools:
    def test_a_call_that_is_required_is_made_and_answered(self, how: dict[str, Any]) -> None:
        chat = ChatOpenAI(**how, max_tokens=96)
        question = HumanMessage("What is the weather in Paris?")
        called = chat.bind_tools([weather], tool_choice="any").invoke([question])
        assert isinstance(called, AIMessage)
        assert called.response_metadata["finish_reason"] == "tool_calls"
        assert {call["name"] for call in called.tool_calls} == {"weather"}
        results: list[ToolMessage] = [weather.invoke(call) for call in called.tool_calls]
        answer = chat.bind_tools([weather], tool_choice="none").invoke([question, called, *results])
        assert answer.text
        assert not answer.tool_calls

    def test_a_call_streams_in_pieces_of_its_arguments(self, how: dict[str, Any]) -> None:
        chat = ChatOpenAI(**how, max_tokens=96).bind_tools([weather], tool_choice="weather")
        chunks = list(chat.stream("What is the weather in Paris?"))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        (call,) = whole.tool_calls  # type: ignore[attr-defined]
        assert call["name"] == "weather"
        assert set(call["args"]) == {"city", "unit"}

    def test_a_model_is_asked_for_by_a_call(self, how: dict[str, Any]) -> None:
        chat = ChatOpenAI(**how, max_tokens=96)
        structured = chat.with_structured_output(Fruit, method="function_calling")
        fruit = structured.invoke("Describe a lemon.")
        assert isinstance(fruit, Fruit)
        assert json.loads(fruit.model_dump_json())
