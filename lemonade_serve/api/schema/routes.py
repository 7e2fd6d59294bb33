"""Where the description is to be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get
from litestar.di import NamedDependency

from lemonade_serve.api.schema.document import Json, describe
from lemonade_serve.api.schema.page import render
from lemonade_serve.api.schema.told import told

_NOTHING_FROM_ELSEWHERE = "default-src 'none'; style-src 'unsafe-inline'"


class Description:
    """One application's, made when it is first asked for, with keys and without."""

    def __init__(self, *, keys: Callable[[], bool], open_to_all: frozenset[str]) -> None:
        """`keys`: whether an API key is needed, as it is now."""
        self._keys = keys
        self._open_to_all = open_to_all
        self._documents: dict[bool, Json] = {}

    def of(self, app: Litestar) -> Json:
        keys = self._keys()
        if keys not in self._documents:
            self._documents[keys] = describe(app, keys=keys, open_to_all=self._open_to_all)
        return self._documents[keys]


Described = NamedDependency[Description]


@get("/schema/openapi.json", operation_id="openapi", opt=told(), tags=["System"])
async def openapi(request: Request[Any, Any, Any], description: Described) -> Response[Json]:
    """This description, for programs."""
    return Response(description.of(request.app))


@get(
    "/schema",
    operation_id="describe",
    media_type=MediaType.HTML,
    opt=told(),
    tags=["System"],
)
async def page(request: Request[Any, Any, Any], description: Described) -> Response[bytes]:
    """This description, for people."""
    headers = {"Content-Security-Policy": _NOTHING_FROM_ELSEWHERE}
    return Response(render(description.of(request.app)), headers=headers)


handlers = [openapi, page]
