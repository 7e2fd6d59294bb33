"""Loads and unloads of the real checkpoint, many times: nothing stays behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from lemonade_serve.app import Application, open_app
from lemonade_serve.settings import Settings
from tests.daemon import MODEL, Daemon, eventually

WARM_UP, CYCLES, FEW_CYCLES = 10, 100, 5
MB = 1_000_000
FLAT_BYTES = 5 * MB
DEADLINE_S = 120.0
SETTLE_S = 10.0
ANY = 1_000_000
REQUEST = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}


class Holdings(NamedTuple):
    """What a process could forget to give back."""

    descriptors: int
    children: int
    threads: int


def _no_more(now: Holdings, before: Holdings) -> bool:
    return all(one <= other for one, other in zip(now, before, strict=True))


def _holdings_of(daemon: Daemon) -> Holdings:
    process = psutil.Process(daemon.process.pid)
    children = process.children(recursive=True)
    return Holdings(process.num_fds(), len(children), process.num_threads())


def _cycle(daemon: Daemon) -> None:
    daemon.use(MODEL)
    assert daemon.client.post("/api/v0/unload").json()["status"] == "success"


@pytest.mark.system
def test_a_hundred_loads_leave_no_memory_descriptor_process_or_thread(
    start_daemon: Callable[..., Daemon], together: ThreadPoolExecutor
) -> None:
    daemon = start_daemon()
    # asyncio starts its threads as they are needed: have all of them, and every connection
    for _ in together.map(daemon.client.get, ["/v1/models"] * 200):
        pass
    for _ in range(WARM_UP):
        _cycle(daemon)
    resident = psutil.Process(daemon.process.pid).memory_info
    before = eventually(lambda: _settled(daemon))
    rss_before, most = resident().rss, 0
    for _ in range(CYCLES):
        _cycle(daemon)
        most = max(most, resident().rss)
    eventually(lambda: _no_more(_holdings_of(daemon), before))
    grown = resident().rss - rss_before
    print(  # noqa: T201
        f"\n{CYCLES} loads: {rss_before / MB:.1f} MB resident before, {grown / MB:+.2f} MB after, "
        f"{(most - rss_before) / MB:+.2f} MB at most; {before}"
    )
    assert grown < FLAT_BYTES
    assert len(daemon.logged("checkpoint_loaded")) == WARM_UP + CYCLES
    assert len(daemon.departures(reason="manual")) == WARM_UP + CYCLES


def _settled(daemon: Daemon) -> Holdings | None:
    """What it holds when it has nothing to do."""
    if daemon.health()["all_models_loaded"] or _holdings_of(daemon).children:
        return None
    return _holdings_of(daemon)


def test_a_few_loads_leave_no_task_descriptor_process_or_thread(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lemonade_serve.app.configure_logging", lambda _: None)
    settings = Settings(cache_dir=str(cache_dir), state_dir=str(tmp_path / "state"))

    async def in_time() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await _open_and_close(settings)

    asyncio.run(in_time())


async def _open_and_close(settings: Settings) -> None:
    """A first time opens what is kept for good; after the second there is no more than that."""
    at_first = _own_holdings()
    await _open_and_cycle(settings, 1)
    warm = await _at_rest(at_first._replace(descriptors=ANY))
    before = at_first._replace(descriptors=warm.descriptors)
    within = await _open_and_cycle(settings, FEW_CYCLES)
    await _at_rest(before)
    print(f"\n{FEW_CYCLES} loads in this process: {within}, and closed: {before}")  # noqa: T201


async def _open_and_cycle(settings: Settings, cycles: int) -> Holdings:
    async with open_app(settings) as application, _client(application) as client:
        opened = _own_holdings()
        await _load_and_unload(client)
        before = await _at_rest(opened._replace(descriptors=ANY))
        for _ in range(cycles):
            await _load_and_unload(client)
            await _at_rest(before)
    return before


async def _load_and_unload(client: httpx.AsyncClient) -> None:
    before = len(psutil.Process().children())  # a daemon of other tests may be among them
    answer = await client.post("/v1/completions", json=REQUEST)
    assert answer.status_code == 200, answer.text
    assert len(psutil.Process().children()) == before + 1
    assert (await client.post("/api/v0/unload")).status_code == 200


async def _at_rest(bound: Holdings) -> Holdings:
    """When no task but this test is there, and no more than so much else: what was let go of has
    some turns of the loop yet to come, and a thread its last lines."""
    until = time.monotonic() + SETTLE_S
    while len(_tasks()) > 1 or not _no_more(_own_holdings(), bound):
        assert time.monotonic() < until, (_tasks(), _own_holdings(), bound)
        await asyncio.sleep(0.01)
    return _own_holdings()


def _tasks() -> list[asyncio.Task[object]]:
    """Not the one that lets go of old answers, for as long as the application is open."""
    return [task for task in asyncio.all_tasks() if task.get_name() != "expiry of conversations"]


def _own_holdings() -> Holdings:
    process = psutil.Process()
    return Holdings(process.num_fds(), len(process.children()), len(_threads()))


def _threads() -> list[str]:
    """Not those of asyncio's own pool, which are kept for whoever needs one next."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if not name.startswith("asyncio_")]


def _client(application: Application) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application.asgi)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://daemon", timeout=60)
