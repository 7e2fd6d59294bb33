"""Requests whose grammars are compiled beside the loop, which goes on meanwhile."""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lemonade_serve.protocol.messages import (
    Cancel,
    Command,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Guidance,
    Started,
    Work,
)
from lemonade_serve.worker.guidance import MAX_GRAMMAR_BYTES
from lemonade_serve.worker.preparing import Prepared, Preparing
from tests.unit.worker.conftest import MakeVocabulary
from tests.unit.worker.test_loop import (
    EOS,
    TOKENIZER,
    Conversation,
    FiniteInbox,
    generate,
    of,
    text,
)

DEADLINE_S = 60.0
LIMITED = "(" * 12 + "a" + "{1,1000})" * 12
"""An expression that reaches a limit of llguidance after a few letters."""


class PatientInbox(FiniteInbox):
    """Waits for what is being prepared before it ends the loop."""

    def __init__(self) -> None:
        self._looks = 0
        self._outstanding = 0
        self.prepared: list[int] = []
        self.when_empty: Callable[[], None] = lambda: None
        """Happens whenever the loop is about to wait."""

    def put(
        self, item: Command | Prepared, block: bool = True, timeout: float | None = None
    ) -> None:
        if isinstance(item, Generate) and item.work.guidance is not None:
            self._outstanding += 1
        if isinstance(item, Prepared):
            self.prepared.append(item.request)
        super().put(item)

    def empty(self) -> bool:
        self._looks += 1
        assert self._looks < 1000, "the loop goes round and round, and takes nothing"
        return super().empty()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._looks = 0
        if not self._outstanding:
            return super().get(block, timeout)
        if self.empty():
            self.when_empty()
        item = super(FiniteInbox, self).get(timeout=DEADLINE_S)
        self._outstanding -= isinstance(item, Prepared)
        return item


class Dialogue(Conversation):
    """A conversation with guided requests."""

    def __init__(self, *what: Any, **more: Any) -> None:
        super().__init__(*what, **more)
        self.inbox: PatientInbox = PatientInbox()


class Gate:
    """What a dialogue's grammars wait for before the first of them: a tokenizer, through a pipe."""

    def __init__(self, dialogue: Dialogue, directory: Path) -> None:
        self._pipe = directory / "pipe"
        os.mkfifo(self._pipe)
        dialogue.vocabulary.tokenizer_json = self._pipe

    def open(self) -> None:
        self._pipe.write_text(TOKENIZER.to_str())


@pytest.fixture
def talk(make_vocabulary: MakeVocabulary) -> Callable[..., Dialogue]:
    def start(answer: str = "ok", *, slots: int = 2) -> Dialogue:
        vocabulary = make_vocabulary(tokenizer=TOKENIZER, context_length=64)
        return Dialogue(vocabulary, answer, sequence_slots=slots)

    return start


def guided(request: int, grammar: str, kind: Any = "regex", **more: Any) -> Generate:
    command = generate(request, **more)
    work = msgspec.structs.replace(command.work, guidance=Guidance(kind, grammar))
    return Generate(command.request, work)


def started(events: list[Event]) -> list[int]:
    return [event.request for event in events if isinstance(event, Started)]


def test_an_answer_says_what_its_grammar_allows(talk: Callable[..., Dialogue]) -> None:
    events = talk("maybe").run(guided(1, "no[.!]"), generate(2))
    assert re.fullmatch("no[.!]", text(of(1, events)))
    assert text(of(2, events)) == "maybe"


def test_an_answer_ends_with_its_grammar_and_needs_no_token_for_that(
    talk: Callable[..., Dialogue],
) -> None:
    dialogue = talk("no, never")
    events = dialogue.run(guided(1, "no"))
    assert text(events) == "no"
    assert events[-1] == Finished(1, "", FinishReason.STOP)
    assert dialogue.engine.steps == 3  # one to begin


def test_an_answer_that_may_end_goes_on_until_the_model_ends_it(
    talk: Callable[..., Dialogue],
) -> None:
    events = talk("no").run(guided(1, "n[a-z]*"))
    assert text(events) == "no"
    assert events[-1] == Finished(1, "", FinishReason.STOP)


def test_an_end_that_a_grammar_has_in_its_middle_ends_nothing(
    talk: Callable[..., Dialogue],
) -> None:
    events = talk("a").run(guided(1, f'start: "a" <[{EOS}]> "b"', "lark"))
    assert text(events) == "ab"
    assert events[-1] == Finished(1, "", FinishReason.STOP)


def test_an_answer_that_is_cut_is_a_beginning(talk: Callable[..., Dialogue]) -> None:
    events = talk("ok").run(guided(1, '{"enum": ["yesterday"]}', "json_schema", max_length=4))
    assert text(events) == '"yes'
    assert events[-1] == Finished(1, "", FinishReason.LENGTH)


def test_no_end_before_the_least_length_where_the_grammar_goes_on(
    talk: Callable[..., Dialogue],
) -> None:
    events = talk("n").run(guided(1, "n+", min_length=4), guided(2, "n?", min_length=4))
    assert text(of(1, events)) == "nnnn"
    assert text(of(2, events)) == "n"


def test_sequences_have_a_way_each(talk: Callable[..., Dialogue]) -> None:
    events = talk("no, never", slots=3).run(guided(1, "no+", n=3, max_length=8))
    assert all(re.fullmatch("no+", text(events, index)) for index in range(3))


def test_others_stream_while_a_request_is_prepared(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    dialogue = talk("abc")
    gate = Gate(dialogue, tmp_path)
    dialogue.when[4] = gate.open  # by then the other one has said all
    events = dialogue.run(guided(1, "no"), generate(2))
    assert started(events) == [2, 1]
    assert text(of(2, events[:4])) == "abc"
    assert text(of(1, events)) == "no"


def test_a_loop_with_nothing_else_to_do_waits_for_what_is_prepared(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    dialogue = talk("no")
    gate = Gate(dialogue, tmp_path)
    waits = []

    def wait() -> None:
        waits.append((dialogue.engine.steps, dialogue.turns, len(dialogue.frames)))
        gate.open()

    dialogue.inbox.when_empty = wait
    assert text(dialogue.run(guided(1, "no"))) == "no"
    assert waits == [(0, 0, 0)]


def test_a_request_that_is_cancelled_while_it_is_prepared_says_nothing(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    dialogue = talk("abc")
    gate = Gate(dialogue, tmp_path)
    dialogue.when[1] = lambda: dialogue.inbox.put(Cancel(1))
    dialogue.when[4] = gate.open
    dialogue.inbox.put(guided(1, "no"))
    dialogue.inbox.put(generate(2))
    events = dialogue.run(guided(4, "yes"))
    assert of(1, events) == []
    assert text(of(2, events)) == "abc"
    assert text(of(4, events)) == "yes"
    assert dialogue.engine.idle


def test_one_that_is_cancelled_before_its_turn_is_never_prepared(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    dialogue = talk("abc")
    gate = Gate(dialogue, tmp_path)
    dialogue.when[1] = lambda: dialogue.inbox.put(Cancel(3))
    dialogue.when[4] = gate.open
    dialogue.inbox.put(guided(1, "no"))
    super(PatientInbox, dialogue.inbox).put(guided(3, "never"))  # nothing to wait for
    events = dialogue.run(guided(4, "yes"), generate(2))
    assert of(3, events) == []
    assert text(of(1, events)) == "no"
    assert text(of(4, events)) == "yes"
    assert dialogue.inbox.prepared == [1, 4]


def test_clients_take_turns_here_too(talk: Callable[..., Dialogue]) -> None:
    many = [guided(request, "no", client="many") for request in range(1, 5)]
    events = talk("no", slots=1).run(*many, guided(9, "no", client="one"))
    assert started(events) == [1, 9, 2, 3, 4]


def test_a_grammar_that_is_wrong_fails_its_request_alone(talk: Callable[..., Dialogue]) -> None:
    events = talk("abc").run(guided(1, "(no"), generate(2), guided(3, "yes"))
    (failure,) = of(1, events)
    assert isinstance(failure, Failed)
    assert (failure.code, failure.param) == ("invalid_request_error", "regex")
    assert (text(of(2, events)), text(of(3, events))) == ("abc", "yes")


def test_a_limit_on_the_way_fails_its_request_alone(talk: Callable[..., Dialogue]) -> None:
    events = talk("a" * 40).run(guided(1, LIMITED), generate(2))
    failure = of(1, events)[-1]
    assert isinstance(failure, Failed)
    assert failure.code == "generation_failed"
    assert "too complex" in failure.message
    assert text(of(2, events)) == "a" * 40


def chain(rule: str, name: str = "r") -> str:
    """Rules that refer to the next one each, as many as a grammar may have."""
    count = MAX_GRAMMAR_BYTES // (len(rule) + 2 * len(f"{name}10000")) - 2
    rules = [rule.format(f"{name}{n}", f"{name}{n + 1}") for n in range(count)]
    return "\n".join([f"start: {name}0", *rules, f'{name}{count}: "a"'])


def schema_chain() -> str:
    count = MAX_GRAMMAR_BYTES // 60
    schemas = {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(count)}
    whole = {"$ref": "#/$defs/d0", "$defs": {**schemas, f"d{count}": {}}}
    return msgspec.json.encode(whole).decode()


def nest(opening: str, kernel: str, closing: str) -> str:
    depth = (MAX_GRAMMAR_BYTES - len(kernel) - len("start: ")) // len(opening + closing)
    return opening * depth + kernel + closing * depth


@pytest.mark.parametrize(
    ("kind", "grammar"),
    [
        ("regex", nest("(", "a", ")")),
        ("regex", nest("(?:a", "b", ")*")),
        ("lark", "start: " + nest("(", '"a"', ")")),
        ("lark", "start: " + nest('["a" ', '"b"', "]")),
        ("json_schema", nest('{"items":', "{}", "}")),
        ("json_schema", nest('{"anyOf":[', "{}", "]}")),
        ("json_schema", '{"const":' + nest("[", "", "]")[9:-9] + "}"),
        ("lark", chain("{}: {}")),
        ("lark", chain('{}: "a" {} "b"')),
        ("lark", chain('{}: ("a" {})*', "R")),
        ("json_schema", schema_chain()),
    ],
    ids=[
        *("groups", "repeated", "parentheses", "optional", "items", "any of", "values"),
        *("rules", "brackets", "terminals", "references"),
    ],
)
def test_a_grammar_may_be_as_deep_as_it_may_be_long(
    talk: Callable[..., Dialogue], kind: str, grammar: str
) -> None:
    events = talk("ok").run(guided(1, grammar, kind, max_length=4), generate(2))
    assert isinstance(of(1, events)[-1], Finished | Failed)
    assert text(of(2, events)) == "ok"


def test_what_takes_too_long_is_given_up() -> None:
    given_up = threading.Event()

    def prepare(_: Work) -> tuple[()]:
        assert given_up.wait(DEADLINE_S)
        return ()

    delivered: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
    preparing = Preparing(prepare, delivered.put, timeout_s=0.001, give_up=given_up.set)
    preparing.enter(1, generate(1).work)
    assert delivered.get(timeout=DEADLINE_S).failure is None
