"""Answers that have to be something: against a real daemon and a real model."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pydantic
import pytest
from llguidance import LLMatcher, LLTokenizer

from tests import checkpoints
from tests.daemon import MODEL, Daemon
from tests.schemas import UNENFORCEABLE, Schema, random_schemas

MAX_TOKENS = 600


@pytest.fixture(scope="session")
def tokenizer(cache_dir: Path) -> LLTokenizer:
    """The model's, to see what is the beginning of something allowed."""
    return LLTokenizer((checkpoints.original(cache_dir) / "tokenizer.json").read_text())


def ask(daemon: Daemon, say: str = "Give me some data.", **more: object) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": say}], **more}
    return daemon.client.post("/v1/chat/completions", json=body)


def answer(response: httpx.Response) -> tuple[str, str]:
    """The text of the only choice, and why it ended."""
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def error(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    return dict(response.json()["error"])


def json_schema(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "data", "schema": schema}}


def is_beginning(tokenizer: LLTokenizer, schema: Schema, text: str) -> bool:
    """Whether something that the schema allows begins with the text, half characters left out."""
    options = {"whitespace_flexible": False}
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)  # type: ignore[arg-type]
    tokens = tokenizer.tokenize_str(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    return LLMatcher(tokenizer, grammar).validate_tokens(tokens) == len(tokens)


def verdict(tokenizer: LLTokenizer, schema: Schema, response: httpx.Response) -> str:
    """What became of a request; fails if that is wrong."""
    if response.status_code == 400:
        said = error(response)
        assert said["param"] == "response_format"
        named = [word for word in UNENFORCEABLE if re.search(rf"\b{word}\b", said["message"])]
        assert named, said
        assert any(f'"{word}"' in json.dumps(schema) for word in named)
        return f"400: {' '.join(named)}"
    text, reason = answer(response)
    if reason == "stop":
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        exactly = json.loads(json.dumps(schema), parse_float=Decimal)  # 18.67 % 0.01 is not 0
        validator = jsonschema.Draft202012Validator(exactly, format_checker=checker)
        validator.validate(json.loads(text, parse_float=Decimal))
    else:
        assert reason == "length"
        assert is_beginning(tokenizer, schema, text), (schema, text)
    return reason


def distribution(
    daemon: Daemon, tokenizer: LLTokenizer, together: ThreadPoolExecutor, schemas: list[Schema]
) -> Counter[str]:
    """What became of a request for each, 16 at once."""

    def verdict_of(numbered: tuple[int, Schema]) -> str:
        seed, schema = numbered
        form = json_schema(schema)
        response = ask(daemon, max_tokens=MAX_TOKENS, seed=seed, response_format=form)
        return verdict(tokenizer, schema, response)

    return Counter(together.map(verdict_of, enumerate(schemas)))


def test_a_dozen_random_schemas_are_kept_to(
    shared_daemon: Daemon, tokenizer: LLTokenizer, together: ThreadPoolExecutor
) -> None:
    schemas = random_schemas(12, seed=1)
    counts = distribution(shared_daemon, tokenizer, together, schemas)
    assert counts["stop"] >= 8, counts


@pytest.mark.system
def test_two_hundred_random_schemas_are_kept_to(
    shared_daemon: Daemon,
    tokenizer: LLTokenizer,
    together: ThreadPoolExecutor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    schemas = random_schemas(200, seed=5)
    counts = distribution(shared_daemon, tokenizer, together, schemas)
    lines = [f"{count:4d}  {what}" for what, count in counts.most_common()]
    with capsys.disabled():
        print("\n200 random schemas:", *lines, sep="\n")  # noqa: T201
    accepted = counts["stop"] + counts["length"]
    assert accepted >= 0.7 * len(schemas)
    assert counts["length"] <= 0.05 * accepted


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=16)
    continent: Literal["Africa", "America", "Asia", "Europe", "Oceania"]
    districts: list[pydantic.constr(max_length=12)] = pydantic.Field(max_length=2)  # type: ignore[valid-type]


def test_the_openai_package_parses_an_answer(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me about Paris."}],
        response_format=City,
        temperature=0,
        max_tokens=200,
    )
    assert parsed.choices[0].finish_reason == "stop"
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_an_answer_that_was_cut_is_no_answer_to_the_openai_package(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me about Paris."}],
            response_format=City,
            max_tokens=4,
        )


def test_a_streamed_answer_is_json_in_the_end(shared_daemon: Daemon) -> None:
    async def stream() -> City:
        transport = httpx.AsyncHTTPTransport(uds=str(shared_daemon.socket))
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(
                base_url="http://daemon/v1", api_key="any", http_client=http
            )
            async with client.chat.completions.stream(
                model=MODEL,
                messages=[{"role": "user", "content": "Tell me about Lima."}],
                response_format=City,
                seed=1,
                max_tokens=200,
            ) as events:
                final = await events.get_final_completion()
        assert final.choices[0].message.parsed is not None
        return final.choices[0].message.parsed

    assert isinstance(asyncio.run(stream()), City)


def test_any_object_is_a_json_object(shared_daemon: Daemon, tokenizer: LLTokenizer) -> None:
    for seed in range(4):
        text, reason = answer(
            ask(
                shared_daemon,
                "Describe a lemon in JSON.",
                response_format={"type": "json_object"},
                max_tokens=100,
                seed=seed,
            )
        )
        if reason == "stop":
            assert isinstance(json.loads(text), dict)
        else:
            assert is_beginning(tokenizer, {"type": "object"}, text)


def test_text_may_be_anything(shared_daemon: Daemon) -> None:
    plain = ask(shared_daemon, max_tokens=8, temperature=0)
    text = ask(shared_daemon, max_tokens=8, temperature=0, response_format={"type": "text"})
    assert answer(plain) == answer(text)


@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"regex": r"(yes|no), [a-z]{2,9}\."}, r"(yes|no), [a-z]{2,9}\."),
        ({"regex": r"^\p{Lu}\p{Ll}{1,5} (😀|é|日本)$"}, r"\w+ (😀|é|日本)"),
        (
            {"grammar": 'start: CITY ("," CITY){1,3} "."\nCITY: "Rome" | "Lima" | "Oslo"'},
            r"(Rome|Lima|Oslo)(,(Rome|Lima|Oslo)){1,3}\.",
        ),
    ],
)
def test_an_answer_keeps_to_an_expression_or_a_grammar(
    shared_daemon: Daemon, form: dict[str, str], allowed: str
) -> None:
    for seed in range(3):
        text, reason = answer(ask(shared_daemon, seed=seed, max_tokens=64, **form))
        assert reason == "stop"
        assert re.fullmatch(allowed, text), text


def test_a_completion_keeps_to_its_form_too(shared_daemon: Daemon) -> None:
    body = {"model": MODEL, "prompt": "The answer is", "regex": " (4|5)[0-9]"}
    response = shared_daemon.client.post("/v1/completions", json=body)
    (choice,) = response.json()["choices"]
    assert re.fullmatch(" (4|5)[0-9]", choice["text"])
    assert choice["finish_reason"] == "stop"


def test_sequences_of_one_request_go_ways_of_their_own(shared_daemon: Daemon) -> None:
    more = {"n": 4, "temperature": 2.0, "seed": 3, "regex": "[a-z]{5,9}!"}
    response = ask(shared_daemon, **more)
    texts = [choice["message"]["content"] for choice in response.json()["choices"]]
    assert all(re.fullmatch("[a-z]{5,9}!", text) for text in texts)
    assert len(set(texts)) > 1
    assert (
        response.json()["usage"]["prompt_tokens"]
        == ask(shared_daemon, max_tokens=1).json()["usage"]["prompt_tokens"]
    )


def test_a_stop_string_that_a_client_keeps_does_not_cut_what_has_a_form(
    shared_daemon: Daemon,
) -> None:
    kept = {"stop": ["stop"], "max_length": 64}
    shared_daemon.client.post("/api/v0/params", json=kept).raise_for_status()
    try:
        text, reason = answer(ask(shared_daemon, regex="[ab]{4}stop[ab]{9}"))
    finally:
        shared_daemon.client.delete("/api/v0/params").raise_for_status()
    assert (len(text), reason) == (17, "stop")


def test_a_key_is_not_written_twice_in_another_spelling(shared_daemon: Daemon) -> None:
    """As an escape it would be the same key, and its value another one's."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 1}},
        "required": ["a"],
    }
    example = r'Example: {"a":"x","\u0061":1}'
    for seed in range(3):
        text, reason = answer(
            ask(
                shared_daemon,
                f"{example} {example} Repeat the example.",
                response_format=json_schema(schema),
                max_tokens=40,
                seed=seed,
            )
        )
        assert r"\u" not in text
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema)


def test_min_tokens_holds_as_far_as_the_grammar_goes(shared_daemon: Daemon) -> None:
    more = {"min_tokens": 20, "max_tokens": 40}
    long = ask(shared_daemon, regex="[a-z]+", **more)
    assert long.json()["usage"]["completion_tokens"] >= 20
    text, reason = answer(ask(shared_daemon, regex="ab?", **more))
    assert (text in {"a", "ab"}, reason) == (True, "stop")


PATTERNS = [{"type": "string", "pattern": f"[a-m]{{{n}}}"} for n in range(1, 41)]
DEEP = '{"items":' * 5000 + "{}" + "}" * 5000


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"response_format": json_schema({"uniqueItems": True})}, "response_format", "uniqueItems"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "yaml"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        (
            {"response_format": json_schema({"$ref": "http://127.0.0.1:9/schema.json"})},
            "response_format",
            "does not fetch",
        ),
        ({"regex": "(a"}, "regex", "unclosed group"),
        ({"grammar": "start: other"}, "grammar", "unknown name"),
        ({"regex": "a", "grammar": 'start: "a"'}, "grammar", "one form"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex", "one form"),
        ({"regex": "a+", "ignore_eos": True}, "ignore_eos", "ends where that does"),
        ({"regex": "a+", "stop": ["b"]}, "stop", "ends where that does"),
        ({"response_format": json_schema({"$ref": "#"})}, "response_format", "cannot be enforced"),
        (
            {"response_format": json_schema({"allOf": PATTERNS})},
            "response_format",
            "pattern: at most",
        ),
        (
            {"response_format": json_schema({"type": "object", "minProperties": 2})},
            "response_format",
            "minProperties",
        ),
        ({"regex": "a" * 70_000}, "regex", "70000 bytes"),
        ({"regex": "(" * 2000 + "a" + ")" * 2000}, "regex", "nest"),
        ({"grammar": "start: " + "(" * 9000 + '"a"' + ")" * 9000}, "grammar", "deeply nested"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(
    shared_daemon: Daemon, more: dict[str, object], param: str, said: str
) -> None:
    refused = error(ask(shared_daemon, **more))
    assert refused["param"] == param
    assert said in refused["message"]
    assert len(refused["message"]) < 1000


def test_a_schema_that_is_nested_too_deeply_is_refused_and_harms_nobody(
    shared_daemon: Daemon,
) -> None:
    shared_daemon.use(MODEL)
    resident = shared_daemon.resident()
    messages = [{"role": "user", "content": "Hello"}]
    body = json.dumps({"messages": messages, "response_format": json_schema({"x": "deep"})})
    body = body.replace('{"x": "deep"}', DEEP)
    response = shared_daemon.client.post("/v1/chat/completions", content=body)
    assert "nested too deeply" in error(response)["message"]
    nested: Schema = {}
    for _ in range(200):
        nested = {"items": nested}
    assert (
        "recursion limit"
        in error(ask(shared_daemon, response_format=json_schema(nested)))["message"]
    )
    chain = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(1200)}
    linked = {"$ref": "#/$defs/d0", "$defs": {**chain, "d1200": {}}, "maxItems": 0}
    response = ask(shared_daemon, max_tokens=16, response_format=json_schema(linked))
    assert response.status_code == 200
    assert shared_daemon.resident() == resident


def test_what_takes_too_long_to_compile_ends_its_worker_and_no_more(
    tmp_path: Path, cache_dir: Path
) -> None:
    settings = {
        "LEMONADE_CACHE_DIR": str(cache_dir),
        "LEMONADE_WORKER__GUIDANCE_TIMEOUT_S": "0.001",
    }
    with Daemon.start(tmp_path, settings) as daemon:
        lost = ask(daemon, regex="a+")
        assert lost.status_code == 500
        assert lost.json()["error"]["code"] == "worker_lost"
        assert answer(ask(daemon, max_tokens=4))[1] == "length"
        assert "guidance_timeout_s" in (tmp_path / "daemon.log").read_text()
