"""What was read last, kept at hand."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from lemonade_serve.domain.ports import ParamsStore
from lemonade_serve.settings.parameters import Options
from lemonade_serve.store.calls import Calls


class CachedParamsStore:
    """A `ParamsStore` before another one, that nobody else writes to, and that does first what it
    is asked first: then a read here never sees less than what was written.

    Keeps `max_entries` sets of parameters, those that were used last; also that there is nothing.
    """

    def __init__(self, store: ParamsStore, *, max_entries: int) -> None:
        self._store = store
        self._max_entries = max_entries
        self._kept: OrderedDict[tuple[str, str], Options] = OrderedDict()
        self._changes = 0
        """A read that was overtaken by one of them is not kept."""
        self._writing = asyncio.Lock()
        self._calls = Calls()

    async def get(self, client: str, model: str = "") -> Options:
        key = (client, model)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        changes = self._changes
        kept = await self._store.get(client, model)
        if changes == self._changes:
            self._keep(key, kept)
        return kept

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        return await self._calls.run(self._edit(client, model, change))

    async def forget(self, client: str, model: str | None = None) -> None:
        await self._calls.run(self._forget(client, model))

    async def _edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        async with self._writing:
            try:
                kept = await self._store.edit(client, model, change)
            finally:
                self._drop([(client, model)])
            self._keep((client, model), kept)
            return kept

    async def _forget(self, client: str, model: str | None) -> None:
        async with self._writing:
            try:
                await self._store.forget(client, model)
            finally:
                self._drop([key for key in self._kept if key[0] == client])

    def _keep(self, key: tuple[str, str], kept: Options) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def _drop(self, keys: list[tuple[str, str]]) -> None:
        self._changes += 1
        for key in keys:
            self._kept.pop(key, None)
