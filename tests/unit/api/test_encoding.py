"""Embeddings and reranking, in and out."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from openai.types import CreateEmbeddingResponse

from lemonade_serve import errors
from lemonade_serve.api.encoding.inputs import inputs_of
from lemonade_serve.api.encoding.schemas import MAX_INPUTS
from lemonade_serve.domain.encoding import TextPrompt, TokensPrompt
from tests.encoders import put
from tests.fakes import asynchronous
from tests.strict import strictly
from tests.unit.api.conftest import House, Open

EMBED = "/v1/embeddings"
RERANK = "/v1/rerank"


@pytest.fixture
def open_encoders(open_house: Open, tmp_path: Path) -> Open:
    """A house that has an `embedder` and a `ranker` too."""
    put(tmp_path / "embedder")
    put(tmp_path / "ranker", labels=1)

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncGenerator[House]:
        async with open_house(**settings) as house:
            yield house

    return opened


async def embed(house: House, given: Any, path: str = EMBED, **said: Any) -> dict[str, Any]:
    answer = await house.client.post(path, json={"model": "embedder", "input": given, **said})
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


async def rerank(house: House, documents: Any, **said: Any) -> dict[str, Any]:
    body = {"model": "ranker", "query": "q", "documents": documents, **said}
    answer = await house.client.post(RERANK, json=body)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", (TextPrompt("a"),)),
        (["a", "b"], (TextPrompt("a"), TextPrompt("b"))),
        ([1, 2], (TokensPrompt((1, 2)),)),
        ([[1, 2], [3]], (TokensPrompt((1, 2)), TokensPrompt((3,)))),
        (["a", [1]], (TextPrompt("a"), TokensPrompt((1,)))),
    ],
)
def test_input_is_a_text_or_token_ids_or_a_list_of_such(given: Any, inputs: Any) -> None:
    assert inputs_of(given) == inputs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", r"input\[0\] is empty"),
        ([], "input is empty"),
        (["a", ""], r"input\[1\] is empty"),
        ([[1], []], r"input\[1\] is empty"),
        ([1, -1], r"input\[0\] is neither"),
        ([1, True], r"input\[0\] is neither"),
        (["a", {}], r"input\[1\] is neither"),
        ([["a"]], r"input\[0\] is neither"),
        (["a"] * (MAX_INPUTS + 1), "2048 entries at most, and not 2049"),
    ],
)
def test_any_other_input_is_refused_and_named(given: Any, words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words) as raised:
        inputs_of(given)
    assert raised.value.param == "input"


@asynchronous
async def test_embeddings_are_openais_as_numbers_and_as_base64(open_encoders: Open) -> None:
    async with open_encoders() as house:
        for path in (EMBED, "/api/v1/embeddings", "/api/v0/embeddings"):
            body = await embed(house, ["a", "b c"], path, user="u", keep_alive=5)
            told = strictly(CreateEmbeddingResponse, body)
            assert [one.embedding for one in told.data] == [[1.0, 0.5], [2.0, 0.5]]
            assert [one.index for one in told.data] == [0, 1]
            assert (told.model, told.usage.prompt_tokens, told.usage.total_tokens) == (
                "embedder",
                3,
                3,
            )
        body = await embed(house, "a", encoding_format="base64")
        (one,) = body["data"]
        assert struct.unpack("<2f", base64.b64decode(one["embedding"])) == (1.0, 0.5)
        assert (await embed(house, "a", encoding_format="float"))["data"][0]["embedding"]


@asynchronous
async def test_many_vectors_come_in_their_order(open_encoders: Open) -> None:
    async with open_encoders() as house:
        body = await embed(house, ["a " * (n % 7 + 1) for n in range(200)])
        assert [one["embedding"][0] for one in body["data"]] == [n % 7 + 1 for n in range(200)]


@asynchronous
async def test_the_worker_hears_what_was_asked(open_encoders: Open) -> None:
    async with open_encoders() as house:
        await embed(house, "a", dimensions=3, truncate=True)
        (work,) = house.launcher.workers[-1].encodings
        assert (work.dimensions, work.truncate, work.query, work.field) == (3, True, None, "input")
        await rerank(house, ["a"])
        (work,) = house.launcher.workers[-1].encodings
        assert (work.truncate, work.query, work.field) == (False, "q", "documents")


@asynchronous
async def test_documents_are_ranked_the_best_first(open_encoders: Open) -> None:
    async with open_encoders() as house:
        body = await rerank(house, ["a b c", {"text": "a"}, "a b"])
        assert [result["index"] for result in body["results"]] == [1, 2, 0]
        scores = [result["relevance_score"] for result in body["results"]]
        assert scores == pytest.approx([1 / 2, 1 / 3, 1 / 4])
        assert "document" not in body["results"][0]
        assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
        assert (body["object"], body["model"]) == ("list", "ranker")
        assert body["id"].startswith("rerank-")


@asynchronous
async def test_only_the_best_come_and_with_their_texts_if_that_is_asked(
    open_encoders: Open,
) -> None:
    async with open_encoders() as house:
        documents = ["a b c", {"text": "a"}, "a b"]
        body = await rerank(house, documents, top_n=2, return_documents=True)
        told = [(result["index"], result["document"]) for result in body["results"]]
        assert told == [(1, {"text": "a"}), (2, {"text": "a b"})]
        assert len((await rerank(house, documents, top_n=99))["results"]) == 3


@asynchronous
async def test_a_model_is_asked_for_what_it_is_made_for(open_encoders: Open) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    ranking = {"query": "q", "documents": ["a"]}
    async with open_encoders() as house:
        for path, model, body in (
            (EMBED, "small", {"input": "a"}),
            (EMBED, "ranker", {"input": "a"}),
            (RERANK, "embedder", ranking),
            (RERANK, "small", ranking),
            ("/v1/chat/completions", "embedder", chat),
            ("/v1/completions", "ranker", {"prompt": "a"}),
            ("/v1/responses", "embedder", {"input": "a"}),
        ):
            answer = await house.client.post(path, json={"model": model, **body})
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("wrong_task", "model")
            assert error["message"].startswith(model)
        answer = await house.client.post(
            "/api/v0/completions", json={"model": "embedder", "prompt": "a"}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "wrong_task")


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        (EMBED, {"dimensions": 0}, "dimensions"),
        (EMBED, {"encoding_format": "int8"}, "encoding_format"),
        (EMBED, {"input": None}, "input"),
        (EMBED, {"temperature": 1}, "temperature"),
        (RERANK, {"query": ""}, "query"),
        (RERANK, {"documents": []}, "documents"),
        (RERANK, {"documents": [1]}, "documents[0]"),
        (RERANK, {"documents": [{"title": "a"}]}, "documents[0]"),
        (RERANK, {"top_n": 0}, "top_n"),
        (RERANK, {"rank_fields": ["a"]}, "rank_fields"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    open_encoders: Open, path: str, changes: dict[str, Any], param: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_encoders() as house:
            body = {"input": "a"} if path == EMBED else {"query": "q", "documents": ["a"]}
            answer = await house.client.post(path, json={**body, **changes})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == param

    ask()


@asynchronous
async def test_the_log_has_a_line_with_numbers_and_no_text(open_encoders: Open) -> None:
    with structlog.testing.capture_logs() as lines:
        async with open_encoders() as house:
            await embed(house, ["a secret", "b"])
    (line,) = [line for line in lines if line["event"] == "request_finished"]
    assert (line["model"], line["inputs"], line["prompt_tokens"]) == ("embedder", 2, 3)
    assert "secret" not in str(lines)
