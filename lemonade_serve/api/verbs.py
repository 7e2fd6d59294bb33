"""What OPTIONS answers."""

from __future__ import annotations

from litestar import Router
from litestar.routes import ASGIRoute, HTTPRoute, WebSocketRoute


def with_all_verbs(router: Router) -> Router:
    """With an answer to OPTIONS that knows every verb: Litestar's knows the first one's alone."""
    router.routes = [_whole(route) for route in router.routes]
    return router


def _whole(route: HTTPRoute | ASGIRoute | WebSocketRoute) -> HTTPRoute | ASGIRoute | WebSocketRoute:
    if not isinstance(route, HTTPRoute):
        return route
    said = [handler for handler in route.route_handlers if "OPTIONS" not in handler.http_methods]
    return HTTPRoute(path=route.path, route_handlers=said)
