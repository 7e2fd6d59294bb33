"""Query parameters: none is accepted and ignored."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter

from lemonade_serve import errors


def known_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard. Raises InvalidRequest, by name, for a parameter that the route does not take."""
    fields = handler.parsed_fn_signature.parameters.items()
    known = {name for name, field in fields if isinstance(field.kwarg_definition, QueryParameter)}
    for name in connection.query_params:
        if name not in known:
            raise errors.InvalidRequest(f"there is no parameter {name!r} here", param=name)
