"""A real embedding model, a reranker and a model that generates, in one daemon."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse
from tokenizers import Tokenizer

from tests.acceptance.openai_clients import async_client_of, client_of
from tests.daemon import MODEL, Daemon, eventually
from tests.encoders import MINILM, RERANKER
from tests.fakes import asynchronous
from tests.scrape import Scrape
from tests.strict import strictly

REFERENCE = json.loads(
    (Path(__file__).parent.parent / "data" / "minilm-l6-v2-reference.json").read_bytes()
)
RERANKED = json.loads(
    (Path(__file__).parent.parent / "data" / "tiny-reranker-reference.json").read_bytes()
)["pairs"]
TEXTS: list[str] = REFERENCE["texts"]
LIMIT = 256

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def house(encoders_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("encoders-daemon")
    with Daemon.start(directory, {"LEMONADE_CACHE_DIR": str(encoders_dir)}) as daemon:
        yield daemon


@pytest.fixture
def client(house: Daemon) -> Iterator[openai.OpenAI]:
    with client_of(house) as client:
        yield client


def embedded(house: Daemon, given: Any, **said: Any) -> tuple[Vectors, int]:
    """The vectors, and how many tokens were read."""
    body = {"model": MINILM, "input": given, "encoding_format": "base64", "truncate": True, **said}
    answer = house.client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [one["index"] for one in told["data"]] == list(range(len(told["data"])))
    raw = [base64.b64decode(one["embedding"]) for one in told["data"]]
    return np.stack([np.frombuffer(one, "<f4") for one in raw]), told["usage"]["prompt_tokens"]


def refused(house: Daemon, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = house.client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def cosines(some: Vectors, others: Vectors) -> Vectors:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((some * others).sum(axis=1) / lengths)


def reference() -> Vectors:
    """What sentence-transformers makes of all texts."""
    raw = [base64.b64decode(vector) for vector in REFERENCE["vectors"]]
    return np.stack([np.frombuffer(one, "<f2") for one in raw]).astype(np.float32)


class TestFidelity:
    def test_100_texts_are_what_sentence_transformers_makes_of_them(self, house: Daemon) -> None:
        """The reference was made by sentence-transformers on torch, one text at a time."""
        assert len(TEXTS) == 100
        found, tokens = embedded(house, TEXTS)
        assert cosines(found, reference()).min() > 1 - 1e-4
        assert tokens == sum(REFERENCE["tokens"])
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)

    def test_100_texts_are_what_plain_onnx_runtime_gives_one_at_a_time(
        self, house: Daemon, encoders_dir: Path
    ) -> None:
        session = ort.InferenceSession(str(encoders_dir / MINILM / "onnx" / "model.onnx"))
        tokenizer = Tokenizer.from_file(str(encoders_dir / MINILM / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(LIMIT)
        expected = []
        for text in TEXTS:
            ids = np.array([tokenizer.encode(text).ids])
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            (states,) = session.run(None, {**feed, "token_type_ids": np.zeros_like(ids)})
            mean = states[0].mean(axis=0)
            expected.append(mean / np.linalg.norm(mean))
        found, _ = embedded(house, TEXTS)
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)

    def test_what_is_read_beside_a_text_changes_nothing_of_its_vector(self, house: Daemon) -> None:
        together, _ = embedded(house, TEXTS)
        with ThreadPoolExecutor(8) as threads:
            apart = list(threads.map(lambda text: embedded(house, text)[0][0], TEXTS))
        assert np.abs(together - np.stack(apart)).max() <= 1e-6

    def test_fewer_dimensions_are_the_first_ones_at_length_1(self, house: Daemon) -> None:
        whole, _ = embedded(house, TEXTS[:3])
        short, _ = embedded(house, TEXTS[:3], dimensions=64)
        cut = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
        np.testing.assert_allclose(short, cut, atol=1e-6)

    def test_token_ids_are_the_text_that_they_were_made_of(
        self, house: Daemon, encoders_dir: Path
    ) -> None:
        tokenizer = Tokenizer.from_file(str(encoders_dir / MINILM / "tokenizer.json"))
        tokenizer.no_padding()
        ids = tokenizer.encode(TEXTS[0]).ids
        by_ids, _ = embedded(house, [ids])
        by_text, _ = embedded(house, TEXTS[0])
        np.testing.assert_array_equal(by_ids, by_text)


class TestOpenAI:
    def test_its_client_gets_numbers_by_either_encoding(self, client: openai.OpenAI) -> None:
        usual = client.embeddings.create(model=MINILM, input=["a", "b"])
        told = client.embeddings.create(model=MINILM, input=["a", "b"], encoding_format="float")
        for one, other in zip(usual.data, told.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding)
            assert len(one.embedding) == 384
        assert told.usage.prompt_tokens == told.usage.total_tokens == 6

    @asynchronous
    async def test_its_other_client_does_too(self, house: Daemon) -> None:
        async with async_client_of(house) as client:
            told = await client.embeddings.create(
                model=MINILM, input="a", dimensions=8, user="u", extra_body={"truncate": True}
            )
            assert len(told.data[0].embedding) == 8

    def test_answers_are_its_model_strictly(self, house: Daemon) -> None:
        for prefix in ("/v1", "/api/v1", "/api/v0"):
            body = {"model": MINILM, "input": ["a", "b"]}
            answer = house.client.post(f"{prefix}/embeddings", json=body)
            strictly(CreateEmbeddingResponse, answer.json())

    def test_its_errors_say_which_input_is_too_long_for_which_limit(
        self, client: openai.OpenAI
    ) -> None:
        with pytest.raises(
            openai.BadRequestError, match=r"input\[1\] has .* limit is 256"
        ) as raised:
            client.embeddings.create(model=MINILM, input=["a", "lemon " * 300])
        assert raised.value.code == "context_length_exceeded"
        assert raised.value.param == "input"


def test_langchain_finds_the_nearest_document(
    house: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    transport = httpx.HTTPTransport(uds=str(house.socket))
    with httpx.Client(transport=transport) as http:
        embeddings = OpenAIEmbeddings(
            model=MINILM,
            base_url="http://daemon/v1",
            api_key="any",  # type: ignore[arg-type]
            http_client=http,
            check_embedding_ctx_length=False,  # else it sends the token ids of a model of OpenAI's
        )
        documents = ["Lemons are sour.", "The train leaves at noon.", "Cats sleep all day."]
        vectors = np.array(embeddings.embed_documents(documents))
        asked = np.array(embeddings.embed_query("When does the train go?"))
    assert int((vectors @ asked).argmax()) == 1


class TestRerank:
    def test_scores_are_the_classifiers_and_the_best_comes_first(
        self, house: Daemon, encoders_dir: Path
    ) -> None:
        query, documents = "what is sour", ["lemons are sour", "sugar is sweet", "a lemon"]
        session = ort.InferenceSession(str(encoders_dir / RERANKER / "onnx" / "model.onnx"))
        tokenizer = Tokenizer.from_file(str(encoders_dir / RERANKER / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        scores = []
        for document in documents:
            pair = tokenizer.encode(query, document)
            ids, types = np.array([pair.ids]), np.array([pair.type_ids])
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
            (logits,) = session.run(None, feed)
            scores.append(float(1 / (1 + np.exp(-logits[0, 0]))))
        body = {"model": RERANKER, "query": query, "documents": documents}
        for prefix in ("/v1", "/api/v1", "/api/v0", "/v2"):
            told = house.client.post(f"{prefix}/rerank", json=body).json()
            order = [result["index"] for result in told["results"]]
            assert order == sorted(range(3), key=lambda at: -scores[at])
            for result in told["results"]:
                assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-6)

    def test_scores_are_what_transformers_makes_of_the_same_weights(self, house: Daemon) -> None:
        """No package has a real cross-encoder: these weights are random."""
        for query, document, score in RERANKED:
            body = {"model": RERANKER, "query": query, "documents": [document]}
            told = house.client.post("/v1/rerank", json=body).raise_for_status().json()
            assert told["results"][0]["relevance_score"] == pytest.approx(score, abs=1e-5)

    def test_a_document_that_is_too_long_is_named(self, house: Daemon) -> None:
        body = {"model": RERANKER, "query": "what", "documents": ["a", "lemon " * 99]}
        error = refused(house, "/v1/rerank", body)
        assert "documents[1]" in error["message"]
        assert (error["param"], error["code"]) == ("documents", "context_length_exceeded")
        answer = house.client.post("/v1/rerank", json={**body, "truncate": True})
        assert answer.status_code == 200


class TestTogether:
    def test_all_are_resident_side_by_side_each_with_its_own_metrics(self, house: Daemon) -> None:
        before = Scrape(house)
        embedded(house, ["a", "b c"])
        house.use(MODEL)
        body = {"model": RERANKER, "query": "what", "documents": ["a", "sugar"]}
        house.client.post("/v1/rerank", json=body).raise_for_status()
        assert set(house.resident()) == {MINILM, MODEL, RERANKER}
        engines = {m["model_name"]: m["engine"] for m in house.health()["all_models_loaded"]}
        assert engines == {MINILM: "encoder", RERANKER: "encoder", MODEL: "batched"}
        after = Scrape(house)

        def grew(name: str, **labels: str) -> float:
            return after.total(name, **labels) - before.total(name, **labels)

        for model, endpoint in (
            (MINILM, "embeddings"),
            (RERANKER, "rerank"),
            (MODEL, "completions"),
        ):
            labels = {"model": model, "endpoint": endpoint}
            assert grew("requests_total", outcome="ok", **labels) == 1
            assert grew("request_duration_seconds_count", **labels) == 1
            assert after.total("model_memory_bytes", model=model) > 0
            assert after.total("model_loads_total", model=model, outcome="ok") == 1
        assert grew("prompt_tokens_total", model=MINILM) == 7
        assert grew("batch_size_sum", model=MINILM) == 2
        assert after.total("generated_tokens_total", model=MINILM) == 0
        assert after.total("request_generated_tokens_count", model=MINILM) == 0
        assert after.total("time_to_first_token_seconds_count", model=MINILM) == 0
        assert grew("generated_tokens_total", model=MODEL) == 2
        assert grew("time_to_first_token_seconds_count", model=MODEL) == 1

    def test_a_stream_goes_on_while_others_embed(self, house: Daemon) -> None:
        asked = {"model": MODEL, "prompt": "Once", "max_tokens": 64, "ignore_eos": True}
        with ThreadPoolExecutor(1) as threads:
            embedding = threads.submit(embedded, house, TEXTS)
            events = list(house.events("/v1/completions", asked))
            assert len(embedding.result()[0]) == 100
        assert events[-1]["choices"][0]["finish_reason"] == "length"

    def test_each_says_what_it_is_for_when_it_is_asked_for_something_else(
        self, house: Daemon
    ) -> None:
        error = refused(house, "/v1/embeddings", {"model": MODEL, "input": "a"})
        assert (error["code"], error["param"]) == ("wrong_task", "model")
        chat = {"model": MINILM, "messages": [{"role": "user", "content": "a"}]}
        error = refused(house, "/v1/chat/completions", chat)
        assert error["message"] == f"{MINILM} is an embedding model: ask it on /v1/embeddings"

    def test_what_is_named_nowhere_is_what_was_used_last_for_it(self, house: Daemon) -> None:
        house.use(MODEL)
        told = house.client.post("/v1/embeddings", json={"input": "a"}).json()
        assert told["model"] == MINILM
        told = house.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).json()
        assert told["model"] == MODEL


def test_the_least_recently_used_goes_whatever_it_is_for(
    encoders_dir: Path, tmp_path: Path
) -> None:
    settings = {
        "LEMONADE_CACHE_DIR": str(encoders_dir),
        "LEMONADE_DEVICES__CPU__MAX_MODELS": "1",
        "LEMONADE_POOL__MIN_RESIDENCY_S": "0",
    }
    with Daemon.start(tmp_path, settings) as daemon:
        embedded(daemon, "a")
        daemon.use(MODEL)
        embedded(daemon, "a")
        assert set(daemon.resident()) == {MINILM}
        assert daemon.departures(reason="lru") == [MINILM, MODEL]


def test_a_client_that_leaves_takes_its_request_along(encoders_dir: Path, tmp_path: Path) -> None:
    with Daemon.start(tmp_path, {"LEMONADE_CACHE_DIR": str(encoders_dir)}) as daemon:
        embedded(daemon, "a")
        (worker,) = daemon.workers()
        worker.suspend()
        body = json.dumps({"model": MINILM, "input": ["a"] * 99}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
        with closing(socket.socket(socket.AF_UNIX)) as leaving:
            leaving.connect(str(daemon.socket))
            leaving.sendall(head.encode() + body)
            eventually(lambda: daemon.model()["is_busy"])
        eventually(lambda: not daemon.model()["is_busy"])
        labels = {"model": MINILM, "endpoint": "embeddings", "outcome": "cancelled"}
        assert Scrape(daemon).total("requests_total", **labels) == 1
        worker.resume()
        embedded(daemon, "a")
        assert daemon.logged("request_finished", outcome="cancelled", inputs=99)


def test_a_worker_that_is_killed_loses_its_request_and_comes_back(
    encoders_dir: Path, tmp_path: Path
) -> None:
    with Daemon.start(tmp_path, {"LEMONADE_CACHE_DIR": str(encoders_dir)}) as daemon:
        embedded(daemon, "a")
        (worker,) = daemon.workers()
        worker.suspend()
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(
                daemon.client.post, "/v1/embeddings", json={"model": MINILM, "input": "a"}
            )
            eventually(lambda: daemon.model()["is_busy"])
            worker.kill()
            answer = asked.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "worker_lost")
        embedded(daemon, "a")
