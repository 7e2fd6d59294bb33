"""What a parser of calls takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class CallPart(msgspec.Struct, frozen=True):
    """Some of a call, or all of it. `index` counts the answer's calls; `id` and `name` come with
    the first part of each, and are empty in the others; `arguments` is JSON text, a piece of it."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class CallParser(Protocol):
    """Reads one sequence, piece by piece. The same whole text gives the same content and the same
    calls, whatever the pieces."""

    def push(self, text: str) -> Sequence[str | CallPart]:
        """What is sure by now, in order: content for the reader, and parts of calls."""

    def flush(self) -> Sequence[str | CallPart]:
        """The sequence ended: what was held back. What is no whole call after all is content."""


def joined(parts: Sequence[CallPart]) -> tuple[CallPart, ...]:
    """Whole calls of parts of them."""
    calls: dict[int, CallPart] = {}
    for part in parts:
        known = calls.setdefault(part.index, part)
        if known is not part:
            arguments = known.arguments + part.arguments
            calls[part.index] = msgspec.structs.replace(known, arguments=arguments)
    return tuple(calls.values())
