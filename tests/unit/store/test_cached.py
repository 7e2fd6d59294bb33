"""What a cache may keep, and what it must not. `tests/contract` has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from lemonade_serve import errors
from lemonade_serve.settings import Options
from lemonade_serve.store.cached import CachedParamsStore
from lemonade_serve.store.memory import MemoryParamsStore
from tests.fakes import asynchronous


class SlowStore(MemoryParamsStore):
    """Notes its reads. What is cleared waits: reads with their answer ready, writes undone."""

    def __init__(self) -> None:
        super().__init__(max_clients=100)
        self.reads: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self.asked = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def get(self, client: str, model: str = "") -> Options:
        kept = await super().get(client, model)
        self.reads.append((client, model))
        self.asked.set()
        await self.may_read.wait()
        return kept

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        self.asked.set()
        await self.may_write.wait()
        kept = await super().edit(client, model, change)
        if self.failure:
            raise self.failure
        return kept


def one_more(kept: Options) -> Options:
    return Options(seed=(kept.seed or 0) + 1)


@asynchronous
async def test_what_was_read_or_written_is_not_read_again() -> None:
    slow = SlowStore()
    store = CachedParamsStore(slow, max_entries=10)
    await store.edit("a", "", one_more)
    for _ in range(3):
        assert await store.get("a") == Options(seed=1)
        assert await store.get("b", "small") == Options()
    assert slow.reads == [("b", "small")]


@asynchronous
async def test_what_was_not_used_for_longest_makes_room() -> None:
    slow = SlowStore()
    store = CachedParamsStore(slow, max_entries=2)
    for client in ("a", "b", "a", "c", "a", "b"):
        await store.get(client)
    assert [client for client, _ in slow.reads] == ["a", "b", "c", "b"]


@asynchronous
async def test_a_read_that_a_write_overtook_is_not_kept() -> None:
    slow = SlowStore()
    store = CachedParamsStore(slow, max_entries=10)
    slow.may_read.clear()
    reading = asyncio.create_task(store.get("a"))
    await slow.asked.wait()
    await store.edit("a", "", one_more)
    slow.may_read.set()
    assert await reading == Options()
    assert await store.get("a") == Options(seed=1)


@asynchronous
async def test_a_read_that_a_forgetting_overtook_is_not_kept() -> None:
    slow = SlowStore()
    store = CachedParamsStore(slow, max_entries=10)
    await slow.edit("a", "", one_more)
    slow.may_read.clear()
    reading = asyncio.create_task(store.get("a"))
    await slow.asked.wait()
    await store.forget("a")
    slow.may_read.set()
    assert await reading == Options(seed=1)
    assert await store.get("a") == Options()


@asynchronous
async def test_a_write_whose_writer_left_is_read() -> None:
    slow = SlowStore()
    store = CachedParamsStore(slow, max_entries=10)
    assert await store.get("a") == Options()
    slow.may_write.clear()
    slow.asked.clear()
    writing = asyncio.create_task(store.edit("a", "", one_more))
    await slow.asked.wait()
    writing.cancel()
    await asyncio.wait({writing})
    assert await store.get("a") == Options()
    slow.may_write.set()
    assert await store.edit("a", "", one_more) == Options(seed=2)
    assert await store.get("a") == Options(seed=2)


@asynchronous
async def test_after_a_write_that_failed_the_store_is_asked() -> None:
    slow = SlowStore()
    store = CachedParamsStore(slow, max_entries=10)
    assert await store.get("a") == Options()
    slow.failure = errors.StoreUnavailable()
    with pytest.raises(errors.StoreUnavailable):
        await store.edit("a", "", one_more)
    slow.failure = None
    assert await store.get("a") == Options(seed=1)


@asynchronous
async def test_forgetting_drops_what_it_forgets() -> None:
    store = CachedParamsStore(MemoryParamsStore(max_clients=10), max_entries=10)
    for client, model in (("a", ""), ("a", "small"), ("b", "")):
        await store.edit(client, model, one_more)
    await store.forget("a")
    assert await store.get("a") == await store.get("a", "small") == Options()
    assert await store.get("b") == Options(seed=1)
