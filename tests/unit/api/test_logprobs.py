"""The probabilities of tokens, in OpenAI's words."""

from __future__ import annotations

import math

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from lemonade_serve.api.answer import Drawn, Part
from lemonade_serve.api.openai.writers import ChatWriter, CompletionWriter
from lemonade_serve.domain.completion import Logprob
from tests.unit.api.test_openai import SO_ON, WHOLE, generation, plain, streamed


def drawn(*texts: bytes) -> Drawn:
    """A token, and the likely ones in its place, each less likely than the one before."""
    return tuple(Logprob(n, text, -0.5 * (n + 1)) for n, text in enumerate(texts))


LEMON = [drawn(b" \xf0\x9f", b"x", b" y"), drawn(b"\x8d"), drawn(b"\x8b!")]


def test_a_chat_has_them_by_token_with_its_bytes() -> None:
    part = Part(0, " \U0001f34b!", LEMON, "stop")
    whole = ChatWriter(include_usage=False).whole(generation(), [part])
    answer = ChatCompletion.model_validate(plain(whole))
    assert answer.choices[0].logprobs
    first, *others = answer.choices[0].logprobs.content or []
    assert (first.token, first.bytes) == (" \\xf0\\x9f", [32, 0xF0, 0x9F])
    assert first.logprob == -0.5
    likely = [(one.token, one.bytes, one.logprob) for one in first.top_logprobs]
    assert likely == [("x", [120], -1.0), (" y", [32, 121], -1.5)]
    told = bytes(byte for token in [first, *others] for byte in token.bytes or [])
    assert told.decode() == part.text


def test_the_first_token_of_a_prompt_has_none() -> None:
    told = [(Logprob(1, b"a", math.nan),), drawn(b"b", b"b")]
    whole = CompletionWriter(include_usage=False).whole(generation(), [Part(0, "ab", told, "stop")])
    logprobs = plain(whole)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b"]
    assert logprobs["token_logprobs"] == [None, -0.5]
    assert logprobs["top_logprobs"] == [None, {"b": -0.5}]
    assert logprobs["text_offset"] == [0, 1]


def test_a_completion_has_them_in_columns_with_the_drawn_one_among_the_likely() -> None:
    part = Part(0, " \U0001f34b!", LEMON, "stop")
    whole = CompletionWriter(include_usage=False).whole(generation(), [part])
    logprobs = Completion.model_validate(plain(whole)).choices[0].logprobs
    assert logprobs
    assert logprobs.tokens == [" \\xf0\\x9f", "\\x8d", "\\x8b!"]
    assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]
    assert logprobs.top_logprobs
    assert logprobs.top_logprobs[0] == {" \\xf0\\x9f": -0.5, "x": -1.0, " y": -1.5}
    assert logprobs.text_offset == [0, 1, 1]


def test_a_control_token_has_no_room_in_the_text() -> None:
    told = [(Logprob(0, b"<s>", math.nan, silent=True),), drawn(b"ab"), drawn(b"c")]
    part = Part(0, "abc", told, "stop")
    whole = CompletionWriter(include_usage=False).whole(generation(), [part])
    logprobs = plain(whole)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["<s>", "ab", "c"]
    assert logprobs["text_offset"] == [0, 0, 2]


def test_offsets_go_on_over_the_parts_of_a_sequence() -> None:
    writer = CompletionWriter(include_usage=False)
    parts = [Part(0, "ab", [drawn(b"ab")]), Part(1, "x", [drawn(b"x")])]
    parts += [Part(0, "c", [drawn(b"c")]), Part(0, "", [drawn(b"")], "stop")]
    sent = [event["choices"][0] for event in streamed(writer, *parts)]
    assert [choice["logprobs"]["text_offset"] for choice in sent] == [[0], [0], [2], [3]]


def test_what_looks_alike_does_not_hide_the_one_that_was_drawn() -> None:
    part = Part(0, "a", [drawn(b"a", b"a", b"b")], "stop")
    whole = CompletionWriter(include_usage=False).whole(generation(), [part])
    (likely,) = plain(whole)["choices"][0]["logprobs"]["top_logprobs"]
    assert likely == {"a": -0.5, "b": -1.5}


def test_what_cannot_be_is_a_number_all_the_same() -> None:
    part = Part(0, "a", [(Logprob(1, b"a", 0.0), Logprob(2, b"b", -math.inf))])
    (_, chunk) = streamed(ChatWriter(include_usage=False), part)
    (token,) = chunk["choices"][0]["logprobs"]["content"]
    assert token["top_logprobs"][0]["logprob"] == -9999


@pytest.mark.parametrize("writer", [ChatWriter, CompletionWriter])
def test_who_did_not_ask_gets_none(writer: type[ChatWriter | CompletionWriter]) -> None:
    whole = plain(writer(include_usage=False).whole(generation(), [WHOLE]))
    assert whole["choices"][0]["logprobs"] is None
    sent = streamed(writer(include_usage=False), *SO_ON)
    assert {event["choices"][0]["logprobs"] for event in sent} == {None}
