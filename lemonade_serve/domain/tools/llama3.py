"""Calls as Llama 3 writes them."""

from __future__ import annotations

from lemonade_serve.domain.tools.reader import Reader, Steps

TAG = "<|python_tag|>"
_BETWEEN = (";", ",")


class Llama3Parser(Reader):
    """`{"name": …, "parameters": {…}}` where an answer begins, or anywhere after its tag; several
    have a `;` between them."""

    def _opens(self, character: str) -> bool:
        return character == TAG[0] or (character == "{" and not self._said)

    def _read_calls(self) -> Steps[None]:
        if (yield from self._peek()) == TAG[0]:
            yield from self._literal(TAG)
            yield from self._space()
        while True:
            yield from self._object_call(marked=False)
            after = yield from self._space()
            if after in _BETWEEN:
                yield from self._take()
                yield from self._space()
            elif after != "{":
                return
