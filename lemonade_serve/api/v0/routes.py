"""The Lemonade specification, as docs/api.md settles it."""

from __future__ import annotations

from litestar import Router
from litestar.routes import ASGIRoute, HTTPRoute, WebSocketRoute

from lemonade_serve.api.query import nothing_unknown
from lemonade_serve.api.v0.completions import complete
from lemonade_serve.api.v0.params import forget_params, set_params, show_params
from lemonade_serve.api.v0.reports import (
    health,
    list_checkpoints,
    list_checkpoints_by_body,
    stats,
)
from lemonade_serve.api.v0.residency import (
    load,
    load_by_query,
    pin,
    unload,
    unload_by_query,
    unpin,
)

router = Router(
    "/api/v0",
    route_handlers=[
        complete,
        load,
        load_by_query,
        unload,
        unload_by_query,
        pin,
        unpin,
        set_params,
        show_params,
        forget_params,
        health,
        stats,
        list_checkpoints,
        list_checkpoints_by_body,
    ],
    guards=[nothing_unknown],
    tags=["Lemonade"],
)


def _whole(route: HTTPRoute | ASGIRoute | WebSocketRoute) -> HTTPRoute | ASGIRoute | WebSocketRoute:
    """With an answer to OPTIONS that knows every verb: Litestar's knows the first one's alone."""
    if not isinstance(route, HTTPRoute):
        return route
    said = [handler for handler in route.route_handlers if "OPTIONS" not in handler.http_methods]
    return HTTPRoute(path=route.path, route_handlers=said)


router.routes = [_whole(route) for route in router.routes]
