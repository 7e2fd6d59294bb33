"""From what a Generation says to an answer, whatever the dialect."""

from __future__ import annotations

import pytest

from lemonade_serve.api import answer
from lemonade_serve.api.answer import Part
from lemonade_serve.api.v0.completions import SpecWriter
from lemonade_serve.domain.completion import Finished, FinishReason, Logprob, Token
from lemonade_serve.domain.tools import CallParser, CallPart, parser_of
from lemonade_serve.protocol.messages import Queued, Started
from tests.fakes import asynchronous
from tests.unit.domain.test_completion import House


def drawn(text: bytes) -> answer.Drawn:
    return (Logprob(1, text, -0.5), Logprob(2, b"x", -1.0))


@asynchronous
async def test_a_stream_says_how_many_are_ahead_while_its_request_is_queued() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.begin()
    stream = answer._chunks(None, generation, answer._Cutter(), SpecWriter(), 0.0, None)  # type: ignore[arg-type]
    assert await anext(stream) == b": ping\n\n"
    generation.take(Queued(1, 3))
    assert await anext(stream) == b": queued, 3 ahead\n\n"
    generation.take(Queued(1, 0))
    assert await anext(stream) == b": queued, 0 ahead\n\n"
    generation.take(Started(1, 7, 3, 101.0))
    assert await anext(stream) == b": ping\n\n"
    house.launcher.go()
    sent = b"".join([chunk async for chunk in stream])
    assert b'data: {"text":"so"}' in sent
    assert sent.endswith(answer.DONE)


def test_tokens_wait_for_the_text_that_they_end_in() -> None:
    cutter = answer._Cutter()
    pieces: list[Token | Finished] = [
        Token(1, "", 1.0, 0, drawn(b"a")),
        Token(1, "x", 1.0, 1, drawn(b"x")),
        Token(1, "ab", 2.0, 0, drawn(b"b")),
        Token(1, "", 3.0, 0, drawn(b"c")),
        Finished(1, "", FinishReason.STOP, 0),
    ]
    assert [part for piece in pieces for part in cutter.cut(piece)] == [
        Part(1, "x", [drawn(b"x")]),
        Part(0, "ab", [drawn(b"a"), drawn(b"b")]),
        Part(0, "", [drawn(b"c")], "stop"),
    ]


@pytest.mark.parametrize("told", [(), drawn(b"d")])
def test_the_end_brings_no_text_of_its_own(told: answer.Drawn) -> None:
    cutter = answer._Cutter()
    assert not [*cutter.cut(Token(1, "", 1.0, 0, told))]
    text, end = cutter.cut(Finished(1, "d", FinishReason.LENGTH, 0))
    assert (text.text, list(text.drawn), text.reason) == ("d", [told] if told else [], "")
    assert (end.text, list(end.drawn), end.reason) == ("", [], "length")


@asynchronous
async def test_a_whole_answer_has_every_sequence_in_order() -> None:
    house = House()
    house.launcher.hold()
    generation = await house.begin(n=2)
    generation.take(Token(1, "b", 1.0, 1, drawn(b"b")))
    generation.take(Finished(1, "", FinishReason.STOP, 1))
    generation.take(Token(1, "", 1.0, 0, drawn(b"a")))
    generation.take(Token(1, "aa", 2.0, 0, drawn(b"a")))
    generation.take(Finished(1, "!", FinishReason.LENGTH, 0))
    assert await answer._collect(generation, answer._Cutter()) == [
        Part(0, "aa!", [drawn(b"a"), drawn(b"a")], "length"),
        Part(1, "b", [drawn(b"b")], "stop"),
    ]
    generation.cancel()


class TestCalls:
    CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'

    def parser(self) -> CallParser:
        return parser_of("hermes", lambda: "call_1")

    def cut(self, *pieces: Token | Finished, parallel: bool = True) -> list[Part]:
        cutter = answer._Cutter(self.parser, parallel=parallel)
        return [part for piece in pieces for part in cutter.cut(piece)]

    def test_are_told_as_they_are_written_and_end_the_sequence(self) -> None:
        said = [*f"So: {self.CALL}"]
        pieces = [Token(1, one, 1.0, 0, drawn(one.encode())) for one in said]
        *parts, last = self.cut(*pieces, Finished(1, "", FinishReason.STOP, 0))
        assert "".join(part.text for part in parts) == "So:"
        assert (last.reason, last.text, last.calls) == ("tool_calls", "", ())
        whole = answer._joined([*parts, last])
        assert whole.calls == (CallPart(0, "call_1", "f", '{"a": 1}'),)
        assert [told[0].text for told in whole.drawn] == [one.encode() for one in said]

    def test_that_are_cut_end_with_length(self) -> None:
        *_, last = self.cut(Token(1, self.CALL[:-16], 1.0), Finished(1, "", FinishReason.LENGTH))
        assert last.reason == "length"

    def test_that_are_none_are_text(self) -> None:
        parts = self.cut(Token(1, "<tool_call>", 1.0), Finished(1, "no", FinishReason.STOP))
        assert [(part.text, part.reason) for part in parts] == [("<tool_call>no", ""), ("", "stop")]

    def test_and_texts_keep_their_order(self) -> None:
        both = f"{self.CALL}a{self.CALL}b"
        parts = self.cut(Token(1, both, 1.0), Finished(1, "", FinishReason.STOP))
        assert [(part.text, len(part.calls)) for part in parts] == [
            ("", 1),
            ("a", 1),
            ("b", 0),
            ("", 0),
        ]

    def test_that_are_not_parallel_are_one(self) -> None:
        finished = Finished(1, "", FinishReason.STOP)
        parts = self.cut(Token(1, self.CALL * 3, 1.0), finished, parallel=False)
        assert len(answer._joined(parts).calls) == 1
