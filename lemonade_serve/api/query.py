"""What comes beside a route's path: none of it is accepted and ignored."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter

from lemonade_serve import errors
from lemonade_serve.api.schema.told import Told


def nothing_unknown(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """A guard. Raises InvalidRequest for a query parameter that the route does not take, or that is
    there twice, by its name; and for a body where it takes none."""
    fields = handler.parsed_fn_signature.parameters.items()
    known = {name for name, field in fields if isinstance(field.kwarg_definition, QueryParameter)}
    for name in connection.query_params:
        if name not in known:
            raise errors.InvalidRequest(f"there is no parameter {name!r} here", param=name)
        if len(connection.query_params.getall(name)) > 1:
            raise errors.InvalidRequest(f"{name} is given more than once", param=name)
    told: Told | None = handler.opt.get("told")  # not of Litestar's own answers to OPTIONS
    if told and told.body is None and _has_body(connection):
        raise errors.InvalidRequest("there is no body here: say it in the query")


def _has_body(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    headers = connection.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
