"""Where ports meet adapters: the only module that knows both."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from lemonade_serve import __version__, errors
from lemonade_serve.api.access import Access
from lemonade_serve.api.asgi import create_asgi
from lemonade_serve.api.clients import Clients
from lemonade_serve.background import expiring, preloading
from lemonade_serve.devices.budgets import budgets
from lemonade_serve.devices.cpus import read_cpus
from lemonade_serve.devices.memory import read_memory
from lemonade_serve.devices.providers import CPU, short
from lemonade_serve.devices.survey import Survey, survey
from lemonade_serve.domain.aliases import Aliases
from lemonade_serve.domain.catalogue import Catalogue
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.completion import CompletionService
from lemonade_serve.domain.conversations import Conversations
from lemonade_serve.domain.conversions import Conversions, ConversionTerms, Workshops
from lemonade_serve.domain.encoding import EncodingService
from lemonade_serve.domain.fetcher import Fetcher, FetchTerms, Shelves
from lemonade_serve.domain.orders import order
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.ports import Launcher, Observer
from lemonade_serve.domain.pulls import Puller
from lemonade_serve.domain.readiness import Readiness
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.residents import Residents
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.reload import Reached, Reloader, bounds, turns
from lemonade_serve.runtime.jobs import ProcessJobRunner
from lemonade_serve.runtime.lanes import Lanes
from lemonade_serve.runtime.launcher import ProcessLauncher
from lemonade_serve.settings import Settings, memory_bytes, read_api_keys
from lemonade_serve.store.aliases import FILE as ALIASES
from lemonade_serve.store.aliases import FileAliasStore
from lemonade_serve.store.directory import StateDirectory
from lemonade_serve.store.params import open_params_store
from lemonade_serve.store.pins import FILE as PINS
from lemonade_serve.store.pins import FilePinStore
from lemonade_serve.telemetry.exposition import expose
from lemonade_serve.telemetry.gauges import Sources
from lemonade_serve.telemetry.logging import LogObserver, configure_logging
from lemonade_serve.telemetry.metrics import MetricsObserver
from lemonade_serve.telemetry.observers import Observers
from lemonade_serve.telemetry.stats import StatsObserver
from lemonade_serve.telemetry.tracing import traces

log = structlog.get_logger()


class Application(NamedTuple):
    """What a server runs (`asgi`), and what it needs to stop it with grace."""

    asgi: Access
    service: CompletionService
    encoders: EncodingService
    pool: Pool
    puller: Puller
    conversations: Conversations
    readiness: Readiness
    reloader: Reloader
    started: asyncio.Event
    """Set when a server has begun to run it."""

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, and end what waits, for the daemon is shutting down; True when all that
        runs has come to its end in time."""
        self.readiness.draining = True
        self.pool.drain()
        self.puller.drain()
        self.service.give_up_waiting(errors.Draining())
        self.encoders.give_up_waiting(errors.Draining())
        return await self.asgi.idle(timeout_s)

    async def cut(self) -> None:
        """End everything that still runs; returns when no worker is left."""
        late = errors.Draining("the server is shutting down and could wait no longer")
        self.service.abort(late)
        self.encoders.abort(late)
        await self.pool.close()


@asynccontextmanager
async def open_app(
    settings: Settings, *, launcher: Launcher | None = None
) -> AsyncGenerator[Application]:
    """The daemon without its server; in the end every worker is gone.

    Raises SettingsError when the settings cannot be met: another daemon has the state directory,
    a database is newer than this program, no device is left.
    """
    configure_logging(settings.log)
    looked = await survey(settings.devices)
    _tell(looked)
    unusable = looked.unusable
    room = budgets(settings.devices, read_memory().usable_bytes, unusable=unusable)
    clock = time.monotonic
    stats = StatsObserver()
    metrics = MetricsObserver(
        Sources(
            residency=lambda: (pool.slots(), pool.devices()),
            last=stats,
            draining=lambda: readiness.draining,
            clock=clock,
            wall=time.time,
        ),
        devices=[device.value for device in room],
        version=__version__,
    )
    async with AsyncExitStack() as open_until_the_end:
        traced = await open_until_the_end.enter_async_context(
            traces(settings.tracing, settings.server)
        )
        observer = Observers(LogObserver(), stats, metrics, *filter(None, [traced]))
        state = open_until_the_end.enter_context(StateDirectory(settings.state_path))
        store = await open_until_the_end.enter_async_context(open_params_store(settings))
        pool = Pool(
            launcher or open_until_the_end.enter_context(_launcher(settings, looked, observer)),
            observer,
            budgets=room,
            bounds=bounds(settings),
            clock=clock,
        )
        open_until_the_end.push_async_callback(pool.close)
        catalog = create_catalog(settings)
        aliases = Aliases(FileAliasStore(state.path / ALIASES))
        providers = [short(one.execution_provider) for one in room.values()]
        puller = create_puller(settings, catalog, providers)
        open_until_the_end.push_async_callback(puller.close)

        async def pull(model: str, dtype: str) -> None:
            await puller.ensure(order(model, dtype=dtype), settings.pool.queue_timeout_s)

        locator = Locator(
            catalog,
            pool,
            observer,
            default_model=settings.default_model,
            unusable=unusable,
            aliases=aliases,
        )
        locator.pull = pull if settings.hub.auto_pull else None
        readiness = Readiness(locator.lacking)
        params = ClientParams(store, settings.parameters)
        residents = Residents(locator, pool, FilePinStore(state.path / PINS))
        service = CompletionService(
            locator,
            pool,
            params,
            observer,
            turns=turns(settings),
            clock=clock,
        )
        encoders = EncodingService(
            locator, pool, observer, turns=lambda: service.turns, clock=clock
        )
        conversations = Conversations(
            keep_s=settings.responses.keep_s,
            max_kept=settings.responses.max_kept,
            max_kept_bytes=settings.responses.max_kept_bytes,
        )
        await open_until_the_end.enter_async_context(expiring(conversations, clock))
        started = asyncio.Event()
        clients = Clients(read_api_keys(settings))
        access = create_asgi(
            settings,
            clients,
            observer,
            started,
            {
                "readiness": readiness,
                "service": service,
                "encoders": encoders,
                "residents": residents,
                "catalogue": Catalogue(locator, residents, catalog),
                "aliases": aliases,
                "puller": puller,
                "locator": locator,
                "params": params,
                "conversations": conversations,
                "last_request": stats.last,
                "scrape": lambda accept: expose(metrics, accept),
            },
        )
        await locator.checkpoints()
        await aliases.restore()
        await residents.restore_pins()
        preloads = await open_until_the_end.enter_async_context(preloading(residents))
        preloads.start(settings.pool.preload, readiness)
        reached = Reached(clients, pool, locator, params, service)
        reloader = Reloader(settings, reached, preload=preloads.more)
        yield Application(
            access, service, encoders, pool, puller, conversations, readiness, reloader, started
        )


def create_catalog(settings: Settings) -> DiskCatalog:
    """The checkpoints of the cache directory."""
    return DiskCatalog(settings.cache_path, settings.cache_root_paths)


def create_job_runner(
    settings: Settings, *, timeout_s: float | None = None, python: str | None = None
) -> ProcessJobRunner:
    """What runs imports, for as long as the settings say or `timeout_s`, in the environment of
    `python` or our own."""
    return ProcessJobRunner(
        timeout_s=timeout_s or settings.job.timeout_s,
        handshake_timeout_s=settings.worker.handshake_timeout_s,
        stop_timeout_s=settings.worker.stop_timeout_s,
        python=python,
    )


def create_workshops(settings: Settings) -> Workshops:
    """What makes checkpoints of safetensors, in the environments that the settings name."""
    convert, turn = settings.convert, asyncio.Lock()
    return Workshops(
        _create_conversions(settings, convert.python, turn, encoders=False),
        _create_conversions(settings, convert.encoder_python, turn, encoders=True),
    )


def _create_conversions(
    settings: Settings, python: str | None, turn: asyncio.Lock, *, encoders: bool
) -> Conversions:
    convert = settings.convert
    python = str(Path(python).expanduser()) if python else None
    runner = create_job_runner(settings, timeout_s=convert.timeout_s, python=python)
    terms = ConversionTerms(
        algorithm=convert.algorithm,
        block_size=convert.block_size,
        threads=settings.worker.threads or read_cpus().usable,
        memory_limit=memory_bytes(convert.memory_limit) or read_memory().usable_bytes * 4 // 5,
        keep_free=settings.hub.min_free_bytes,
        max_perplexity_ratio=convert.max_perplexity_ratio,
        min_cosine=convert.min_cosine,
        max_score_error=convert.max_score_error,
        python=python or sys.executable,
        encoders=encoders,
    )
    return Conversions(runner, terms, turn)


def create_puller(settings: Settings, catalog: DiskCatalog, providers: Sequence[str]) -> Puller:
    """What gets checkpoints from the hub into the catalogue, for these execution providers."""
    hub = settings.hub
    fetcher = Fetcher(
        create_job_runner(settings, timeout_s=hub.timeout_s),
        create_job_runner(settings),
        Shelves(catalog, catalog),
        create_workshops(settings),
        terms=FetchTerms(
            at_once=hub.files_at_once,
            keep_free=hub.min_free_bytes,
            silence_s=hub.silence_timeout_s,
            retries=hub.retries,
            providers=tuple(providers) or ("cpu",),
            program=f"lemonade-serve {__version__}",
        ),
        wall=time.time,
    )
    return Puller(fetcher, at_once=hub.max_pulls, queue=hub.max_queue)


def _tell(looked: Survey) -> None:
    """A line for each device."""
    for device, why in looked.unusable.items():
        log.warning("device_unusable", device=device.value, **msgspec.structs.asdict(why))
    for device, finding in looked.findings.items():
        if device not in looked.unusable:
            name = looked.providers[device].name
            log.info(
                "device_usable", device=device.value, execution_provider=name, found=finding.said
            )


def _launcher(settings: Settings, looked: Survey, observer: Observer) -> ProcessLauncher:
    providers = looked.providers
    cpus = read_cpus().usable
    threads = settings.worker.threads or cpus
    apart = [device for device, provider in providers.items() if provider.hardware != CPU]
    return ProcessLauncher(
        settings.worker,
        threads=threads,
        lanes=Lanes(cpus=cpus, threads=threads, apart=apart),
        execution_providers=providers,
        observer=observer,
    )
