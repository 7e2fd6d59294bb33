"""Calls as Mistral's models write them."""

from __future__ import annotations

import string

from lemonade_serve.domain.tools.reader import END, NoCallError, Reader, Steps

CALLS, ARGUMENTS, ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_OF_NAMES = frozenset(string.ascii_letters + string.digits + "_.-")


class MistralParser(Reader):
    """`[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, or as newer ones do, once for each call,
    `[TOOL_CALLS]name[ARGS]{…}`, with an id of theirs before the arguments or without the mark."""

    def _opens(self, character: str) -> bool:
        return character == CALLS[0]

    def _read_calls(self) -> Steps[None]:
        yield from self._literal(CALLS)
        match (yield from self._space()):
            case "[":
                yield from self._list()
            case "{":
                yield from self._object_call(marked=True)
            case _:
                yield from self._named()

    def _list(self) -> Steps[None]:
        after = ","
        while after == ",":
            yield from self._take()
            yield from self._space()
            yield from self._object_call(marked=True)
            after = yield from self._space()
        if after == END:
            return
        yield from self._literal("]")
        self._drop()

    def _named(self) -> Steps[None]:
        name = yield from self._word()
        if (yield from self._peek()) == "[":
            yield from self._take()
            if (yield from self._peek()) == ID[1]:
                yield from self._literal(ID[1:])
                yield from self._word()
                yield from self._literal("[")
            yield from self._literal(ARGUMENTS[1:])
        if not name or (yield from self._space()) != "{":
            raise NoCallError
        self._drop()
        self._begin_call(name)
        yield from self._value(argue=True)

    def _word(self) -> Steps[str]:
        taken = ""
        while (yield from self._peek()) in _OF_NAMES:
            taken += yield from self._take()
        return taken
