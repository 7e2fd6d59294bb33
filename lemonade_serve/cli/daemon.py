"""The daemon as a process: one Granian in this very process, and an end with grace."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import structlog
from granian.constants import Interfaces
from granian.server.embed import Server

from lemonade_serve import __version__
from lemonade_serve.app import Application, open_app
from lemonade_serve.cli import notify
from lemonade_serve.cli.listening import check_exposure, check_listening, ip_of, listening
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server as ServerSettings
from lemonade_serve.settings import Settings
from lemonade_serve.telemetry.logging import configure_logging

log = structlog.get_logger()

_PARTING_S = 0.3
"""For connections that are open still when all has been said."""
_LINE_S = 0.1
"""For a last line of the log."""
_LAST_S = 1.0
"""For what is left to do when the workers are gone: the server, the database, the process."""


async def run_daemon(
    settings: Settings,
    when_ready: Callable[[], Coroutine[Any, Any, bool]] | None = None,
    *,
    read_again: Callable[[], Settings] | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT, then let running requests finish; a second one cuts them.
    SIGHUP puts the settings in force that `read_again` returns.

    `when_ready` runs as soon as the daemon answers, and says whether it shall go on. Raises
    SettingsError when the daemon may not, or cannot, listen where the settings say.
    """
    configure_logging(settings.log)  # before the first line
    check_listening(settings)
    wait_without_threads()
    signals = _Signals(longest_end_s(settings))
    try:
        async with open_app(settings) as application:
            signals.opening = None
            async with _reloading(settings, application, signals, read_again):
                await _serve(settings, application, signals, when_ready)
    except asyncio.CancelledError:
        if not signals.stopping.is_set():
            raise
    log.info("daemon_stopped")


class _Signals:
    """What was asked for from outside. The process is gone `longest_end_s` seconds after the first
    one that ends it, or `opening` is cancelled if there is nothing to drain yet."""

    def __init__(self, longest_end_s: float) -> None:
        self.stopping, self.hurrying = asyncio.Event(), asyncio.Event()
        self.reloading = asyncio.Event()
        self.opening = asyncio.current_task()
        self._longest_end_s = longest_end_s
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.reloading.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        if self.stopping.is_set():
            self.hurrying.set()
            return
        self.stopping.set()
        _give_up_after(self._longest_end_s)
        if self.opening:
            self.opening.cancel()


@asynccontextmanager
async def _reloading(
    settings: Settings,
    application: Application,
    signals: _Signals,
    read: Callable[[], Settings] | None,
) -> AsyncGenerator[None]:
    """Reload whenever that is asked for; when that was while reloading, once more."""

    def allow(keys: bool) -> None:
        if signals.stopping.is_set():
            raise SettingsError("the daemon is shutting down")
        check_exposure(settings.server, keys=keys)

    async def reload() -> None:
        while await signals.reloading.wait():
            signals.reloading.clear()
            if read is None or signals.stopping.is_set():
                log.warning("reload_ignored")
                continue
            notify.tell(notify.reloading())
            try:
                await application.reloader.reload(read, allow)
            except Exception:  # this task owns all reloads: whoever asks again is not ignored
                log.exception("reload_broke")
            if not signals.stopping.is_set():
                notify.tell(notify.READY)

    reloading = asyncio.create_task(reload(), name="reload")
    try:
        yield
    finally:
        reloading.cancel()
        await asyncio.wait({reloading})


def longest_end_s(settings: Settings) -> float:
    """From SIGTERM until the process is gone, whatever hangs."""
    return settings.server.drain_timeout_s + settings.worker.stop_timeout_s + _LAST_S


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
    signals: _Signals,
    when_ready: Callable[[], Coroutine[Any, Any, bool]] | None,
) -> None:
    server, stopping = _granian(application, settings.server), signals.stopping
    serving = asyncio.create_task(server.serve(), name="granian")
    try:
        with _threads_that_wait():
            await _either(application.started.wait(), serving)
        # What was imported stays: a collection that looked through it would stall every stream.
        gc.collect()
        gc.freeze()
        log.info("daemon_ready", version=__version__, listening=listening(settings.server))
        notify.tell(notify.READY)
        if when_ready:
            errand = asyncio.create_task(when_ready())
            await _either(stopping.wait(), errand)
            if not errand.done():
                errand.cancel()
            elif not errand.result():
                stopping.set()
        await _either(stopping.wait(), serving)
        notify.tell(notify.STOPPING)
        await _drain(settings, application, signals.hurrying)
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        # It waits for whoever has sent half a request, or does not read the answer.
        await asyncio.wait({serving}, timeout=_PARTING_S)
        if not serving.done():
            log.warning("connections_cut", requests=application.asgi.in_flight)
            serving.cancel()


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


async def _drain(settings: Settings, application: Application, hurrying: asyncio.Event) -> None:
    access, timeout_s = application.asgi, settings.server.drain_timeout_s
    log.info("daemon_draining", requests=access.in_flight, timeout_s=timeout_s)
    drained = asyncio.create_task(application.drain(timeout_s))
    await _either(hurrying.wait(), drained)
    if drained.done() and drained.result():
        return
    drained.cancel()
    log.warning("requests_cut", requests=access.in_flight)
    # Clients read the error that ends their stream while the workers are stopped.
    await asyncio.gather(application.cut(), access.idle(settings.worker.stop_timeout_s))


def _give_up_after(seconds: float) -> None:
    """End the process then, if it still is there: a worker that the kernel does not let go, a
    database that says nothing. What had to be kept is on disk. In a thread, for the loop may be
    what hangs."""

    def tell() -> None:
        log.error("daemon_gave_up", after_s=seconds)

    # a timer each: who reads the log may have stopped, and the line then never ends
    for after_s, act in ((seconds - _LINE_S, tell), (seconds, functools.partial(os._exit, 1))):
        timer = threading.Timer(after_s, act)
        timer.daemon = True
        timer.start()


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
        address=str(ip_of(settings)),
        port=settings.port,
        uds=Path(settings.uds) if settings.uds else None,
        interface=Interfaces.ASGI,
        backlog=settings.max_connections,
        backpressure=settings.max_connections,
        websockets=False,
        log_enabled=False,
    )
