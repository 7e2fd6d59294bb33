"""What a handler says of its route, beyond what its signature does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

ALL = frozenset({400, 401, 403, 500, 503})
"""What any route may answer: who asks and from where is checked, and it may fail or drain."""
MODEL = ALL | {404}
BODY = ALL | {413}
STORE = ALL | {429}
LOAD = MODEL | {429}
GENERATION = LOAD | BODY
NOTHING = frozenset[int]()
READY = frozenset({503})
SCRAPE = ALL - {503}


Examples = Mapping[str, Mapping[str, Any]]
"""Bodies, by title."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """`refuses`: the statuses of its errors. `body`: that of a verb which Litestar reads none for;
    `examples`: of any body, by title. `stream`: an example of what it answers when it streams."""

    refuses: frozenset[int]
    body: type[msgspec.Struct] | None
    examples: Examples
    stream: str | None


def told(
    refuses: frozenset[int] = ALL,
    *,
    body: type[msgspec.Struct] | None = None,
    examples: Examples | None = None,
    stream: str | None = None,
) -> dict[str, Told]:
    """A handler's `opt`."""
    return {"told": Told(refuses=refuses, body=body, examples=examples or {}, stream=stream)}
