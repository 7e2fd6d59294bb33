"""All routes and what stands before them, as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide

from lemonade_serve.api import errors as api_errors
from lemonade_serve.api import system
from lemonade_serve.api.access import Access, exchange_of, open_paths
from lemonade_serve.api.answer import StreamBounds
from lemonade_serve.api.clients import Clients
from lemonade_serve.api.encoding import routes as encoding_routes
from lemonade_serve.api.openai import routes as openai_routes
from lemonade_serve.api.responses import routes as responses_routes
from lemonade_serve.api.schema import routes as schema_routes
from lemonade_serve.api.schema.routes import Description
from lemonade_serve.api.v0 import routes as v0_routes
from lemonade_serve.domain.ports import Observer
from lemonade_serve.domain.readiness import Readiness
from lemonade_serve.settings import Settings


def create_asgi(
    settings: Settings,
    clients: Clients,
    observer: Observer,
    started: asyncio.Event,
    dependencies: Mapping[str, Any],
) -> Access:
    """The HTTP side. `dependencies` is what handlers may ask for, by name."""
    open_to_all = open_paths(open_metrics=settings.server.open_metrics)
    provided = {
        **dependencies,
        "bounds": StreamBounds(
            status_hold_s=settings.server.status_hold_s, keepalive_s=settings.server.keepalive_s
        ),
        "description": Description(keys=lambda: clients.known, open_to_all=open_to_all),
    }

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        started.set()
        yield

    litestar = Litestar(
        route_handlers=[
            *system.handlers,
            *schema_routes.handlers,
            v0_routes.router,
            *openai_routes.routers,
            *responses_routes.routers,
            *encoding_routes.routers,
        ],
        dependencies={name: _provide(thing) for name, thing in provided.items()},
        exception_handlers={Exception: _respond},
        lifespan=[lifespan],
        openapi_config=None,
        request_max_body_size=settings.server.max_body_bytes,
        logging_config=None,
    )
    readiness: Readiness = dependencies["readiness"]
    return Access(litestar, clients, readiness, open_to_all=open_to_all, observer=observer)


def _respond(
    request: Request[Any, Any, Any], error: Exception
) -> Response[api_errors.SpecError | api_errors.OpenAIError]:
    """To whoever asked, and to the log."""
    exchange_of(request.scope).error = api_errors.show(error).code
    return api_errors.respond(request, error)


def _provide(thing: object) -> Provide:
    def provided() -> Any:
        return thing

    return Provide(provided, sync_to_thread=False)
