"""Where ports meet adapters: the only module that knows both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from litestar import Litestar
from litestar.di import Provide

from lemonade_serve.api import errors as api_errors
from lemonade_serve.api.access import Access
from lemonade_serve.api.answer import StreamBounds
from lemonade_serve.api.openai import routes as openai_routes
from lemonade_serve.api.system import livez, readyz
from lemonade_serve.api.v0 import routes as v0_routes
from lemonade_serve.domain.completion import CompletionService
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.ports import JobRunner, Launcher
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.runtime.jobs import ProcessJobRunner
from lemonade_serve.runtime.launcher import ProcessLauncher
from lemonade_serve.settings import Settings
from lemonade_serve.telemetry.logging import LogObserver, configure_logging


class Application(NamedTuple):
    """What a server runs (`asgi`), and what it needs to stop it with grace."""

    asgi: Access
    service: CompletionService
    started: asyncio.Event
    """Set when the lifespan has begun."""


def create_app(settings: Settings, *, launcher: Launcher | None = None) -> Application:
    """The daemon without its server. Its lifespan ends with every worker gone."""
    configure_logging(settings.log)
    pool = Pool(
        launcher or ProcessLauncher(settings.worker),
        LogObserver(),
        max_requests=settings.worker.sequence_slots + settings.worker.max_queue,
        unload_timeout_s=settings.worker.unload_timeout_s,
        clock=time.monotonic,
    )
    service = CompletionService(
        create_catalog(settings),
        pool,
        devices=[Device.CPU],
        default_model=settings.default_model,
        clock=time.monotonic,
    )
    bounds = StreamBounds(
        status_hold_s=settings.server.status_hold_s, keepalive_s=settings.server.keepalive_s
    )

    started = asyncio.Event()

    @asynccontextmanager
    async def residency(_: Litestar) -> AsyncGenerator[None]:
        started.set()
        yield
        await pool.close()

    litestar = Litestar(
        route_handlers=[livez, readyz, v0_routes.router, *openai_routes.routers],
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "bounds": Provide(lambda: bounds, sync_to_thread=False),
            "access": Provide(lambda: access, sync_to_thread=False),
        },
        exception_handlers={Exception: api_errors.respond},
        lifespan=[residency],
        openapi_config=None,
        request_max_body_size=settings.server.max_body_bytes,
        logging_config=None,
    )
    access = Access(litestar)
    return Application(access, service, started)


def create_catalog(settings: Settings) -> DiskCatalog:
    """The checkpoints of the cache directory."""
    return DiskCatalog(settings.cache_path, settings.cache_root_paths)


def create_job_runner(settings: Settings) -> JobRunner:
    """What runs imports."""
    return ProcessJobRunner(
        timeout_s=settings.job.timeout_s,
        handshake_timeout_s=settings.worker.handshake_timeout_s,
        stop_timeout_s=settings.worker.stop_timeout_s,
    )
