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
        return self._find(client, model)

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        kept = change(self._find(client, model))
        if kept == NOTHING:
            self._drop(client, model)
            return kept
        if client not in self._clients and len(self._clients) >= self._max_clients:
            raise ClientLimit()
        self._clients.setdefault(client, {})[model] = kept
        return kept

    async def forget(self, client: str, model: str | None = None) -> None:
        if model is None:
            self._clients.pop(client, None)
        else:
            self._drop(client, model)

    def _find(self, client: str, model: str) -> Options:
        return self._clients.get(client, {}).get(model, NOTHING)

    def _drop(self, client: str, model: str) -> None:
        models = self._clients.get(client, {})
        models.pop(model, None)
        if not models:
            self._clients.pop(client, None)
