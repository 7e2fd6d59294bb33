"""The daemon as a process: one Granian in this very process, and an end with grace."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from granian.constants import Interfaces
from granian.server.embed import Server

from lemonade_serve import __version__
from lemonade_serve.app import Application, open_app
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server as ServerSettings
from lemonade_serve.settings import Settings, read_api_keys

log = structlog.get_logger()

_LOOPBACK = "127.0.0.1"
_FAREWELL_S = 2.0
"""How long clients get to read the error event that ends their stream at the drain's deadline."""


async def run_daemon(
    settings: Settings, when_ready: Callable[[], Coroutine[Any, Any, bool]] | None = None
) -> None:
    """Answer until SIGTERM or SIGINT, then let running requests finish; a second one cuts them.

    `when_ready` runs as soon as the daemon answers, and says whether it shall go on. Raises
    SettingsError when the daemon may not, or cannot, listen where the settings say.
    """
    check_listening(settings)
    wait_without_threads()
    async with open_app(settings) as application:
        await _serve(settings, application, when_ready)
    log.info("daemon_stopped")


def wait_without_threads() -> None:
    """Python before 3.12 waits for each child in a new thread, and its event loop stands still
    until that thread has begun to run: with busy cores, a stall for every stream at every load."""
    if sys.version_info < (3, 12) and _has_pidfds():
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def _has_pidfds() -> bool:
    """Kernels before 5.3 and some sandboxes have none."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


async def _serve(
    settings: Settings,
    application: Application,
    when_ready: Callable[[], Coroutine[Any, Any, bool]] | None,
) -> None:
    server = _granian(application, settings.server)
    stopping, hurrying = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(
            number, lambda: hurrying.set() if stopping.is_set() else stopping.set()
        )
    serving = asyncio.create_task(server.serve(), name="granian")
    try:
        with _threads_that_wait():
            await _either(application.started.wait(), serving)
        # What was imported stays: a collection that looked through it would stall every stream.
        gc.collect()
        gc.freeze()
        log.info("daemon_ready", version=__version__, listening=listening(settings.server))
        if when_ready:
            errand = asyncio.create_task(when_ready())
            await _either(stopping.wait(), errand)
            if not errand.done():
                errand.cancel()
            elif not errand.result():
                stopping.set()
        await _either(stopping.wait(), serving)
        await _drain(application, settings.server.drain_timeout_s, hurrying)
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await serving


@contextmanager
def _threads_that_wait() -> Iterator[None]:
    """Threads that are born in here wake up only when a core is free, or has had its time. One
    token's bytes would wake the server's thread on this very core, and the tokens behind it would
    wait for as long as the scheduler lets a model compute: up to 6 ms (ADR 0002)."""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:  # a sandbox may forbid it
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def listening(server: ServerSettings) -> str:
    """Where the daemon answers, as a URL."""
    if server.uds:
        return f"unix:{server.uds}"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


async def _drain(application: Application, timeout_s: float, hurrying: asyncio.Event) -> None:
    access = application.asgi
    drained = asyncio.create_task(access.drain(timeout_s))
    log.info("daemon_draining", requests=access.in_flight, timeout_s=timeout_s)
    await _either(hurrying.wait(), drained)
    if not drained.done() or not drained.result():
        drained.cancel()
        log.warning("requests_cut", requests=access.in_flight)
        await application.cut()
        await access.drain(_FAREWELL_S)


async def _either(wanted: Coroutine[Any, Any, object], task: asyncio.Task[Any]) -> None:
    """Wait for whichever is first; an error of `task` is raised."""
    waiting = asyncio.create_task(wanted)
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()


def _granian(application: Application, settings: ServerSettings) -> Server:
    """ADR 0002 says why it is embedded, and why it is one."""
    return Server(
        application.asgi,
        address=str(_ip(settings)),
        port=settings.port,
        uds=Path(settings.uds) if settings.uds else None,
        interface=Interfaces.ASGI,
        backlog=settings.max_connections,
        backpressure=settings.max_connections,
        websockets=False,
        log_enabled=False,
    )


def check_listening(settings: Settings) -> None:
    """Raises SettingsError when a daemon may not, or could not, listen there."""
    _check_exposure(settings.server, keys=bool(read_api_keys(settings)))
    _check_address(settings.server)


def _check_exposure(server: ServerSettings, *, keys: bool) -> None:
    if keys or server.uds or _ip(server).is_loopback:
        return
    if not server.allow_keyless:
        raise SettingsError(
            f"anyone who reaches {server.host} could use this server: set api_keys, listen on "
            "127.0.0.1, or say --allow-keyless (LEMONADE_SERVER__ALLOW_KEYLESS=true)"
        )
    log.warning("keyless", host=server.host, advice="anyone who reaches this address is served")


def _check_address(server: ServerSettings) -> None:
    """Granian would share the port with another daemon, and take over another's socket file."""
    if server.uds:
        _check_socket_file(Path(server.uds))
        return
    family = socket.AF_INET6 if _ip(server).version == 6 else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(_ip(server)), server.port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {server.host} port {server.port}: {error.strerror}. "
                "Is a daemon running already? Choose another port with --port"
            ) from error


def _check_socket_file(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise SettingsError(f"cannot listen on {path}: it is there already, and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # left behind by a daemon that was killed
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError(f"cannot listen on {path}: {error.strerror}") from error
        else:
            raise SettingsError(f"a daemon is listening on {path} already")


def _ip(server: ServerSettings) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(_LOOPBACK if server.host == "localhost" else server.host)
    except ValueError:
        raise SettingsError(f"server.host must be an IP address, not {server.host!r}") from None
