"""Names that stand for others, and stay when those change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from lemonade_serve.domain.checkpoint import check_name
from lemonade_serve.domain.names import parse
from lemonade_serve.domain.ports import AliasStore
from lemonade_serve.errors import InvalidRequest, ModelNotFound


class Aliases:
    """They are kept before they are in force, and so survive whoever was told of them."""

    def __init__(self, store: AliasStore) -> None:
        self._store = store
        self._names: Mapping[str, str] = {}
        self._changing = asyncio.Lock()

    @property
    def names(self) -> Mapping[str, str]:
        """What each stands for."""
        return self._names

    def __call__(self, name: str) -> str:
        """What a name stands for; most stand for themselves."""
        return self._names.get(name, name)

    async def restore(self) -> None:
        """Put those that were kept in force. Raises StoreUnavailable."""
        self._names = await asyncio.to_thread(self._store.load)

    async def set(self, alias: str, model: str) -> None:
        """From now on `alias` stands for `model`: a name, perhaps with `@REVISION`, `:DTYPE` or
        `:ADAPTER`. It need not be here. Raises InvalidRequest and StoreUnavailable."""
        async with self._changing:
            await self._keep(with_alias(self._names, alias, model))

    async def remove(self, alias: str) -> None:
        """Raises ModelNotFound and StoreUnavailable."""
        async with self._changing:
            await self._keep(without_alias(self._names, alias))

    async def _keep(self, names: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._store.save, names)
        self._names = names


def with_alias(names: Mapping[str, str], alias: str, model: str) -> Mapping[str, str]:
    """Raises InvalidRequest: an alias stands for a model, and not for itself or another alias."""
    check_name(alias)
    target = parse(model).model
    check_name(target)
    if target == alias or target in names:
        raise InvalidRequest(f"{target!r} is an alias itself", param="model")
    if alias in {parse(other).model for other in names.values()}:
        raise InvalidRequest(f"another alias stands for {alias!r}", param="alias")
    return {**names, alias: model}


def without_alias(names: Mapping[str, str], alias: str) -> Mapping[str, str]:
    """Raises ModelNotFound."""
    if alias not in names:
        raise ModelNotFound(f"there is no alias {alias!r}", param="alias")
    return {name: model for name, model in names.items() if name != alias}
