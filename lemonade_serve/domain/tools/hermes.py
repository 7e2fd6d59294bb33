"""Calls as Hermes, Qwen and many others write them."""

from __future__ import annotations

from lemonade_serve.domain.tools.reader import ClosedError, Reader, Steps

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesParser(Reader):
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them. Space around the
    marks is theirs; a closing mark may be missing."""

    closing_mark = CLOSE

    def _opens(self, character: str) -> bool:
        return character == OPEN[0]

    def _read_calls(self) -> Steps[None]:
        """A call and its closing mark, and those that follow where that is missing."""
        yield from self._literal(OPEN)
        while True:
            yield from self._space()
            try:
                yield from self._object_call(marked=True)
            except ClosedError:
                self._drop()
                return
            if (yield from self._space()) != CLOSE[0]:
                return
            yield from self._take()
            if (yield from self._peek()) == CLOSE[1]:
                yield from self._literal(CLOSE[1:])
                self._drop()
                return
            yield from self._literal(OPEN[1:])
