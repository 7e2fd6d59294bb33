"""Clients' parameters that live as long as the process."""

from __future__ import annotations

from collections.abc import Callable

from lemonade_serve.errors import ClientLimit
from lemonade_serve.settings.parameters import Options

NOTHING = Options()


class MemoryParamsStore:
    """A `ParamsStore` that forgets when the process ends; the rest of the contract it keeps."""

    def __init__(self, *, max_clients: int) -> None:
        self._max_clients = max_clients
        self._clients: dict[str, dict[str, Options]] = {}

    async def get(self, client: str, model: str = "") -> Options:
        return self._clients.get(client, {}).get(model, NOTHING)

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        kept = change(await self.get(client, model))
        if kept == NOTHING:
            await self.forget(client, model)
            return kept
        if client not in self._clients and len(self._clients) >= self._max_clients:
            raise ClientLimit()
        self._clients.setdefault(client, {})[model] = kept
        return kept

    async def forget(self, client: str, model: str | None = None) -> None:
        models = self._clients.get(client, {})
        models.pop(model, None) if model is not None else models.clear()
        if not models:
            self._clients.pop(client, None)
