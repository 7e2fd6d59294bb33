"""What a handler says of its route, beyond what its signature does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.types import OperationIDCreator

from lemonade_serve.api.body import Body

ALL = frozenset({400, 401, 403, 500, 503})
"""What any route may answer: who asks and from where is checked, and it may fail or drain."""
MODEL = ALL | {404}
BODY = ALL | {413}
STORE = ALL | {429}
LOAD = MODEL | {429, 502, 507}
"""With `hub.auto_pull` a model may have to be pulled first."""
REMOVAL = MODEL | {409}
PULL = GENERATION = LOAD | BODY
NOTHING = frozenset[int]()
READY = frozenset({503})
SCRAPE = ALL - {503}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """`refuses`: the statuses of its errors. `stream`: an example of what it answers when it
    streams."""

    refuses: frozenset[int]
    body: Body[Any] | None
    stream: str | None


def told(
    refuses: frozenset[int] = ALL,
    *,
    body: Body[Any] | None = None,
    stream: str | None = None,
) -> dict[str, Told]:
    """A handler's `opt`."""
    return {"told": Told(refuses=refuses, body=body, stream=stream)}


def operation(name: str) -> OperationIDCreator:
    """OpenAI's own name under /v1; under the other prefixes it says which."""

    def create(_: HTTPRouteHandler, __: object, path: Sequence[object]) -> str:
        return name if path[0] == "v1" else f"{name}_{path[0]}_{path[1]}"

    return create
