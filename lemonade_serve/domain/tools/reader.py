"""What all parsers of calls are made of: reading with one character of foresight.

A parser is a coroutine that takes characters, so that it cannot know in which pieces they came.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from typing import TypeVar

from lemonade_serve.domain.tools.calls import CallPart

END = ""
"""What comes after the last character."""

SPACE = frozenset(" \t\r\n")
_CLOSES = {"{": "}", "[": "]"}
_ENDS_A_WORD = SPACE | frozenset(",}]")
_ARGUMENTS = ("arguments", "parameters")
_FIRST_KEYS = ("name", "type", "id", *_ARGUMENTS)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_T = TypeVar("_T")
Steps = Generator[None, str, _T]


class NoCallError(Exception):
    """What is held is content after all."""


class ClosedError(Exception):
    """A mark closed the call in the middle of its arguments; it is what is held."""


class _Call:
    """What is known of one that is being read."""

    def __init__(self, *, marked: bool) -> None:
        self.marked = marked
        self.members = 0
        self.name = ""
        self.arguments: str | None = None
        self.begun = False


class Reader(ABC):
    """A CallParser, for who says where calls may open and how they are read.

    What is taken is held until it is clear what it is: `_say` makes content of it, `_drop` nothing.
    Space around calls is nothing.
    """

    closing_mark = ""
    """Ends a call wherever it stands, for a quote that was not escaped leaves all that follows in a
    string. Models do not write it in their arguments."""

    def __init__(self, new_id: Callable[[], str], names: Collection[str] = ()) -> None:
        """`names` are those of the tools that there are: without a mark nothing else is a call."""
        self._new_id = new_id
        self._names = names
        self._calls = 0
        self._said = False
        self._held: list[str] = []
        self._ahead: str | None = None
        self._given: list[str | CallPart] = []
        self._steps = self._read()
        next(self._steps)

    def push(self, text: str) -> Sequence[str | CallPart]:
        for character in text:
            self._steps.send(character)
        return self._give()

    def flush(self) -> Sequence[str | CallPart]:
        with suppress(StopIteration):
            self._steps.send(END)
        return self._give()

    @abstractmethod
    def _opens(self, character: str) -> bool:
        """Whether calls may begin with it here."""

    @abstractmethod
    def _read_calls(self) -> Steps[None]:
        """Takes calls, from what opens them on. Raises NoCallError at what cannot go on so."""

    def _read(self) -> Steps[None]:
        called = False
        while (character := (yield from self._space())) != END:
            called = self._opens(character)
            if called:
                try:
                    yield from self._read_calls()
                except NoCallError:
                    called = False
            else:
                yield from self._take()
            if not called:
                self._say()
        if called:
            self._drop()
        self._say()

    def _give(self) -> Sequence[str | CallPart]:
        given, self._given = self._given, []
        return given

    def _peek(self) -> Steps[str]:
        """The next character, which is not taken yet."""
        if self._ahead is None:
            self._ahead = yield
        return self._ahead

    def _take(self) -> Steps[str]:
        """The next character, held. Never at the END."""
        character = yield from self._peek()
        self._held.append(character)
        self._ahead = None
        return character

    def _say(self) -> None:
        """What is held is content."""
        if text := self._drop():
            self._said = True
            if self._given and isinstance(last := self._given[-1], str):
                self._given[-1] = last + text
            else:
                self._given.append(text)

    def _drop(self) -> str:
        text = "".join(self._held)
        self._held = []
        return text

    def _begin_call(self, name: str) -> None:
        self._given.append(CallPart(self._calls, self._new_id(), name))
        self._calls += 1

    def _argue(self, text: str) -> None:
        """More of the arguments of the call that began last."""
        last, index = self._given[-1] if self._given else "", self._calls - 1
        if isinstance(last, CallPart) and last.index == index:
            self._given[-1] = CallPart(index, last.id, last.name, last.arguments + text)
        else:
            self._given.append(CallPart(index, arguments=text))

    def _argue_but_mark(self) -> None:
        """What is held is more of the arguments, but for an end that the closing mark begins with.
        Raises ClosedError where all of the mark is there."""
        text, mark = self._drop(), self.closing_mark
        kept = next((n for n in range(len(mark), 0, -1) if text.endswith(mark[:n])), 0)
        if sure := text[: len(text) - kept]:
            self._argue(sure)
        if kept:
            self._held.append(mark[:kept])
            if kept == len(mark):
                raise ClosedError

    def _space(self) -> Steps[str]:
        """Takes all space; returns what is next."""
        while (character := (yield from self._peek())) in SPACE:
            yield from self._take()
        return character

    def _literal(self, literal: str) -> Steps[None]:
        """Takes it. Raises NoCallError, having taken as much of it as is there."""
        for expected in literal:
            if (yield from self._peek()) != expected:
                raise NoCallError
            yield from self._take()

    def _string(self) -> Steps[str]:
        """Takes a JSON string. Raises NoCallError if there is none."""
        yield from self._literal('"')
        taken = '"'
        while True:
            if (yield from self._peek()) == END:
                raise NoCallError
            character = yield from self._take()
            taken += character
            if character == "\\":
                if (yield from self._peek()) != END:
                    taken += yield from self._take()
            elif character == '"':
                if isinstance(read := _json(taken), str):
                    return read
                raise NoCallError

    def _value(self, *, argue: bool = False) -> Steps[str]:
        """Takes a JSON value, whose brackets match at least. Raises NoCallError where it breaks.
        With `argue` it goes out as arguments while it is read, and ClosedError is raised at the
        closing mark."""
        taken: list[str] = []
        closing: list[str] = []
        quoted = escaped = False
        while True:
            character = yield from self._peek()
            if not quoted and not closing and character in _ENDS_A_WORD:
                if taken:
                    return "".join(taken)  # a number or a word
                raise NoCallError
            mismatch = not quoted and character in ("}", "]") and character != closing[-1]
            if mismatch or character == END:
                raise NoCallError
            taken.append((yield from self._take()))
            if argue:
                self._argue_but_mark()
            if escaped:
                escaped = False
            elif quoted:
                escaped, quoted = character == "\\", character != '"'
            elif character in _CLOSES:
                closing.append(_CLOSES[character])
            elif character in ("}", "]"):
                closing.pop()
            else:
                quoted = character == '"'
            if not quoted and not closing and character in ('"', "}", "]"):
                return "".join(taken)

    def _object_call(self, *, marked: bool) -> Steps[None]:
        """Takes a call that is a JSON object with a `name` and `arguments`, or `parameters`. It is
        sure, and goes out, once its name is known and its arguments begin: what follows may break
        it off, but not undo it.

        Without a mark that says so, only what looks like a call from its first key on is one, and
        only of a tool that there is, with arguments.
        """
        call = _Call(marked=marked)
        yield from self._literal("{")
        yield from self._member(call)
        while (after := (yield from self._space())) == ",":
            yield from self._take()
            yield from self._member(call)
        if after != "}":
            raise NoCallError
        yield from self._take()
        if not call.begun:
            if not call.name or (call.arguments is None and not marked):
                raise NoCallError
            self._begin_call(call.name)
            self._argue(call.arguments or "{}")
        self._drop()

    def _member(self, call: _Call) -> Steps[None]:
        """Takes a key of a JSON object, and its value."""
        yield from self._space()
        key = yield from self._string()
        yield from self._space()
        yield from self._literal(":")
        yield from self._space()
        if not (call.marked or call.members or key in _FIRST_KEYS):
            raise NoCallError
        call.members += 1
        if key == "name" and not call.name:
            call.name = yield from self._string()
            if not (_NAME.fullmatch(call.name) and (call.marked or call.name in self._names)):
                raise NoCallError
        elif key in _ARGUMENTS and call.arguments is None:
            yield from self._arguments(call)
        else:
            yield from self._value()

    def _arguments(self, call: _Call) -> Steps[None]:
        if call.name and (yield from self._peek()) == "{":
            call.begun = True
            self._drop()
            self._begin_call(call.name)
            call.arguments = yield from self._value(argue=True)
        else:
            call.arguments = _object((yield from self._value()))


def _object(text: str) -> str:
    """An object as JSON text, which may stand in a string, as some models write it. Raises
    NoCallError for anything else."""
    if text == "null":
        return "{}"
    read = _json(text)
    if isinstance(read, str):
        read = _json(read)
        text = json.dumps(read)
    if not isinstance(read, dict):
        raise NoCallError
    return text


def _json(text: str) -> object:
    """None, if it is no JSON."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
