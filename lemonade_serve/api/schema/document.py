"""The OpenAPI document: what the handlers say of themselves, with msgspec's word on the bodies.

Litestar's own generator forgets some bounds and does not know which bodies refuse other fields."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter, QueryParameter
from litestar.routes import HTTPRoute

from lemonade_serve import __version__
from lemonade_serve.api.body import Body
from lemonade_serve.api.errors import OpenAIError, SpecError, speaks_spec
from lemonade_serve.api.schema.told import Told
from lemonade_serve.settings.schema import CLIENT_NAME

Json = dict[str, Any]

_ABOUT = """\
Two dialects over one pool of models: the Lemonade specification under `/api/v0`, and OpenAI's under
`/v1` and `/api/v1`. An error has an honest status, and the shape of its route's dialect.
"""
_TAGS = {
    "Lemonade": "The Lemonade specification.",
    "OpenAI": "OpenAI's dialect.",
    "Encoders": "Embeddings as OpenAI has them, reranking as Jina and Cohere do.",
    "System": "For whoever watches the server, and for this description of it.",
}
_WHY = {
    400: "A field is wrong, or what it asks for is not to be had; the message says which and why.",
    401: "No API key, or a wrong one.",
    403: "A page of another site asked, or a directory is outside the allowed roots.",
    404: "There is no such model, or no such response is kept.",
    409: "The model is in memory.",
    413: "The body is too large.",
    429: "The model's queue is full, or too many clients keep parameters.",
    500: "The model cannot be loaded, its worker died, or the server failed.",
    502: "The hub cannot be reached, or refuses.",
    507: "There is no room on the disk.",
    503: "There is no room in time, or the server is shutting down.",
}
_TEXT = {"type": "string"}
_REQUEST_ID = {"description": "The caller's `X-Request-Id`, or a new one.", "schema": _TEXT}
_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
_CHALLENGE = {"description": "How to say who asks.", "schema": {"const": "Bearer"}}
_CLIENT = {
    "name": "X-Client-Id",
    "in": "header",
    "required": False,
    "description": "Names the client; with an API key, one under the key's own.",
    "schema": {"type": "string", "pattern": CLIENT_NAME},
}


def describe(app: Litestar, *, keys: bool, open_to_all: frozenset[str]) -> Json:
    """The document of an application. `keys`: whether an API key is needed, but for the paths in
    `open_to_all`."""
    return _Describer(keys=keys, open_to_all=open_to_all).document(app)


class _Describer:
    def __init__(self, *, keys: bool, open_to_all: frozenset[str]) -> None:
        self._keys = keys
        self._open = open_to_all
        self._components: Json = {}

    def document(self, app: Litestar) -> Json:
        paths: Json = {}
        for route in app.routes:
            if isinstance(route, HTTPRoute):
                for verb, handler in _told(route):
                    item = paths.setdefault(route.path_format, {})
                    item[verb] = self._operation(route, handler)
        schemes = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
        return {
            "openapi": "3.1.0",
            "info": {"title": "lemonade-serve", "version": __version__, "description": _ABOUT},
            "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
            "paths": paths,
            "components": {"schemas": self._components, "securitySchemes": schemes},
        }

    def _operation(self, route: HTTPRoute, handler: HTTPRouteHandler) -> Json:
        told: Told = handler.opt["told"]
        open_to_all = route.path in self._open
        text = " ".join((inspect.getdoc(handler.fn) or "").split())
        parameters = [] if open_to_all else [_CLIENT]
        operation: Json = {
            "operationId": _operation_id(route, handler),
            "tags": sorted(handler.resolve_tags()),
            "summary": text.partition(". ")[0].rstrip("."),
            "description": text,
            "parameters": [*self._parameters(handler), *parameters],
            "responses": {
                "200": self._success(handler, told),
                **{str(s): self._error(s, route.path) for s in self._refuses(told, open_to_all)},
            },
            "security": [] if open_to_all else [{"key": []}] if self._keys else [{}, {"key": []}],
        }
        if told.body:
            operation["requestBody"] = self._body(told.body)
        return operation

    def _refuses(self, told: Told, open_to_all: bool) -> list[int]:
        """Without keys nobody is asked for one."""
        never = {400, 401} if open_to_all else set() if self._keys else {401}
        return sorted(told.refuses - never)

    def _parameters(self, handler: HTTPRouteHandler) -> Iterator[Json]:
        places = {QueryParameter: "query", PathParameter: "path"}
        for name, hint in get_type_hints(handler.fn, include_extras=True).items():
            for kind in getattr(hint, "__metadata__", ()):
                if place := places.get(type(kind)):
                    default = inspect.signature(handler.fn).parameters[name].default
                    required = default is inspect.Parameter.empty
                    schema = _without_null(self._schema(hint))
                    if not required and default is not None:
                        schema["default"] = default
                    yield {"name": name, "in": place, "required": required, "schema": schema}

    def _body(self, body: Body[Any]) -> Json:
        examples = {title: {"value": value} for title, value in body.examples.items()}
        content = {"schema": self._schema(body.accepted), "examples": examples}
        return {"required": not body.optional, "content": {"application/json": content}}

    def _success(self, handler: HTTPRouteHandler, told: Told) -> Json:
        kind = _answer(get_type_hints(handler.fn)["return"])
        media_type = str(getattr(handler.media_type, "value", handler.media_type))
        schema = _TEXT if kind is bytes else self._schema(kind)
        content: Json = {media_type or "application/json": {"schema": schema}}
        if told.stream:
            # No schema: to some an event is what it describes, and to others the whole stream.
            content["text/event-stream"] = {"examples": {"stream": {"value": told.stream}}}
        return {
            "description": "Success.",
            "headers": {"X-Request-Id": _REQUEST_ID},
            "content": content,
        }

    def _error(self, status: int, path: str) -> Json:
        headers: Json = {"X-Request-Id": _REQUEST_ID}
        if status in (429, 503):
            headers["Retry-After"] = _RETRY_AFTER
        if status == 401:
            headers["WWW-Authenticate"] = _CHALLENGE
        schema = self._schema(SpecError if speaks_spec(path) else OpenAIError)
        return {
            "description": f"{HTTPStatus(status).phrase}. {_WHY[status]}",
            "headers": headers,
            "content": {"application/json": {"schema": schema}},
        }

    def _schema(self, kind: Any) -> Json:
        (schema,), parts = msgspec.json.schema_components(
            [kind], ref_template="#/components/schemas/{name}"
        )
        for name, part in parts.items():
            if self._components.setdefault(name, part) != part:
                raise AssertionError(f"two bodies of the API are called {name}")
        return schema


def _told(route: HTTPRoute) -> Iterator[tuple[str, HTTPRouteHandler]]:
    for verb, (handler, _) in route.route_handler_map.items():
        if "told" in handler.opt:
            yield verb.lower(), handler


def _operation_id(route: HTTPRoute, handler: HTTPRouteHandler) -> str:
    name = handler.operation_id
    if callable(name):
        return name(handler, next(iter(handler.http_methods)), route.path_components)
    return str(name)


def _answer(hint: Any) -> Any:
    """The body's type in `T`, `Response[T]` or `Response[T] | Stream`."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if get_origin(part) is Response)
    return get_args(hint)[0] if get_origin(hint) is Response else hint


def _without_null(schema: Mapping[str, Any]) -> Json:
    """Left out is how a parameter is null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if not kinds:
        return dict(schema)
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}
