"""The loop of an encoder's worker, on a scripted graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import (
    Begun,
    Cancel,
    Command,
    Encode,
    Encoded,
    Encoding,
    Event,
    Events,
    Failed,
    ImportGguf,
    Report,
    TextPrompt,
    TokensPrompt,
)
from lemonade_serve.worker.encoders.graph import Values
from lemonade_serve.worker.encoders.loop import EncoderLoop
from lemonade_serve.worker.encoders.reading import Row
from tests.fakes import FakeClock
from tests.unit.worker.test_loop import FiniteInbox, Over


class ScriptedGraph:
    """A row's value is how many tokens it has; one that begins with 666 breaks its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def run(self, rows: Sequence[Row]) -> list[Values]:
        self.batches.append([len(row) for row in rows])
        if any(row.ids[0] == 666 for row in rows):
            raise MemoryError("there is no memory")
        return [np.array([len(row), 7], np.float32) for row in rows]

    def finish(self, values: Values, dimensions: int | None) -> Values:
        return values[:dimensions]

    def check(self, dimensions: int | None) -> None:
        if dimensions == 9:
            raise errors.InvalidRequest("9 are too many", param="dimensions")


class Letters:
    """Each letter of a text is a token; `?` is too long, and `!` a fault of the tokenizer."""

    def read(
        self, given: TextPrompt | TokensPrompt, query: str | None, *, truncate: bool, named: str
    ) -> Row:
        assert isinstance(given, TextPrompt)
        if given.text == "?":
            raise errors.ContextLengthExceeded(f"{named} is too long", param="input")
        if given.text == "!":
            raise RuntimeError("a secret")
        ids = [666] if given.text == "666" else [1] * len((query or "") + given.text)
        return Row(ids, [0] * len(ids))


class Conversation:
    """Runs a loop on some commands until it would wait, and keeps what it sent."""

    def __init__(self, *, batch_tokens: int = 64, alone: bool = False) -> None:
        self.graph = ScriptedGraph()
        self.inbox = FiniteInbox()
        self.frames: list[Events] = []
        self.when: dict[int, Callable[[], None]] = {}
        """What happens after so many frames."""
        self._turns = 0
        self._loop = EncoderLoop(
            self.graph,
            Letters(),
            self.inbox,
            self._send,
            turn=self._turn,
            batch_tokens=batch_tokens,
            alone=alone,
            clock=FakeClock(),
        )

    def run(self, *commands: Command) -> list[Event]:
        for command in commands:
            self.inbox.put(command)
        with pytest.raises(Over):
            self._loop.run()
        return [event for frame in self.frames for event in frame.events]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nothing computes outside of one."""
        assert len(self.graph.batches) == self._turns
        try:
            yield
        finally:
            self._turns += 1
        assert len(self.graph.batches) == self._turns

    def _send(self, report: Report) -> None:
        assert isinstance(report, Events)
        self.frames.append(report)
        self.when.get(len(self.frames), lambda: None)()


def encode(request: int, *texts: str, **said: object) -> Encode:
    inputs = tuple(map(TextPrompt, texts))
    return Encode(request, Encoding(inputs, **said))  # type: ignore[arg-type]


def values(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def failures(events: list[Event]) -> list[tuple[int, str, str]]:
    return [(e.request, e.code, e.message) for e in events if isinstance(e, Failed)]


def test_a_request_begins_and_has_a_value_for_each_input() -> None:
    conversation = Conversation()
    events = conversation.run(encode(1, "a", "bbb"))
    assert events == [
        Begun(1, 1000.0),
        Encoded(1, 1, 3, values(3, 7)),
        Encoded(1, 0, 1, values(1, 7)),
    ]
    assert [frame.batch for frame in conversation.frames] == [0, 2]


def test_vectors_are_cut_as_their_own_request_says() -> None:
    events = Conversation().run(encode(1, "a", dimensions=1), encode(2, "b"))
    told = [event.values for event in events if isinstance(event, Encoded)]
    assert told == [values(1), values(1, 7)]


def test_inputs_of_all_requests_are_read_together() -> None:
    conversation = Conversation()
    conversation.run(encode(1, "a", "b"), encode(2, "c"))
    assert conversation.graph.batches == [[1, 1, 1]]


def test_alone_they_are_not() -> None:
    conversation = Conversation(alone=True)
    conversation.run(encode(1, "aa", "b"))
    assert conversation.graph.batches == [[2], [1]]


def test_clients_take_turns_by_input() -> None:
    conversation = Conversation(batch_tokens=16)  # two short rows
    many, one = encode(1, *"abcdef", client="ann"), encode(2, "g", client="bob")
    events = conversation.run(many, one)
    order = [event.request for event in events if isinstance(event, Encoded)]
    assert order == [1, 2, 1, 1, 1, 1, 1]


def test_one_that_is_wrong_fails_alone_and_is_named() -> None:
    conversation = Conversation()
    events = conversation.run(
        encode(1, "a", "?", "b"), encode(2, "c"), encode(3, "d", "!"), encode(4, "e", dimensions=9)
    )
    assert failures(events) == [
        (4, "invalid_request_error", "9 are too many"),
        (1, "context_length_exceeded", "input[1] is too long"),
        (3, "generation_failed", "input[1] could not be read: RuntimeError"),
    ]
    assert [event.request for event in events if isinstance(event, Encoded)] == [2]


def test_a_batch_that_breaks_takes_those_along_that_are_in_it() -> None:
    conversation = Conversation(alone=True)
    events = conversation.run(encode(1, "666", "a"), encode(2, "b"))
    assert failures(events) == [(1, "no_capacity", "there is no memory")]
    assert [event.request for event in events if isinstance(event, Encoded)] == [2]


def test_what_is_cancelled_is_read_no_further() -> None:
    conversation = Conversation(batch_tokens=16)
    conversation.when[2] = lambda: conversation.inbox.put(Cancel(1))
    events = conversation.run(encode(1, *"abcdef"), Cancel(9))
    assert len([event for event in events if isinstance(event, Encoded)]) == 2
    assert not conversation.inbox.qsize()


def test_what_is_cancelled_leaves_its_batch_to_the_others() -> None:
    conversation = Conversation(alone=True)
    conversation.when[2] = lambda: conversation.inbox.put(Cancel(1))
    conversation.run(encode(1, "aa", "b", "c"), encode(2, "d"))
    assert conversation.graph.batches == [[2], [1]]


def test_a_query_comes_with_each_document() -> None:
    conversation = Conversation()
    conversation.run(encode(1, "a", "bb", query="qqq"))
    assert conversation.graph.batches == [[5, 4]]


def test_another_command_is_a_fault() -> None:
    with pytest.raises(TypeError, match="ImportGguf"):
        Conversation().run(ImportGguf("", "", ""))
