"""The generation parameters that each client keeps."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from lemonade_serve.domain.ports import ParamsStore
from lemonade_serve.domain.sampling import resolve
from lemonade_serve.protocol.messages import ResolvedParams
from lemonade_serve.settings.parameters import Options

Value = float | int | bool | str | list[str] | tuple[str, ...] | None

KEPT = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "min_length",
    "max_length",
    "do_sample",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
)
"""The fields that a client may keep; `ignore_eos` is for one request at a time."""


class Source(enum.Enum):
    """Which layer decided a value: `default` is the specification, `client` what the client keeps
    for all models, `model` what it keeps for this one."""

    DEFAULT = "default"
    SETTINGS = "settings"
    CLIENT = "client"
    MODEL = "model"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter in force, and where it came from."""

    value: Value
    source: Source


class ClientParams:
    """`defaults` are the settings' word, under what clients say. `model` "" means all models.

    Everything here raises StoreUnavailable when the store does.
    """

    def __init__(self, store: ParamsStore, defaults: Options) -> None:
        self._store = store
        self.defaults = defaults

    async def layers(self, client: str, model: str = "") -> list[Options]:
        """What a request's own options go on top of, for `resolve`."""
        below = await self._below(client, model)
        return [*below, await self._store.get(client, model)]

    async def set(self, client: str, model: str, changes: Mapping[str, Value]) -> ResolvedParams:
        """Keep `changes`, whose values are within their own bounds; None puts a field back.

        Returns what is in force then. Raises InvalidRequest, and stores nothing, when that would
        contradict itself; ClientLimit as the store does.
        """
        below = await self._below(client, model)

        def change(kept: Options) -> Options:
            changed = msgspec.structs.replace(kept, **changes)
            resolve(*below, changed)
            return changed

        return resolve(*below, await self._store.edit(client, model, change))

    async def show(self, client: str, model: str = "") -> Mapping[str, Setting]:
        """Every parameter that may be kept, even where the layers contradict each other."""
        plain = ResolvedParams()
        shown = {n: Setting(value=getattr(plain, n), source=Source.DEFAULT) for n in KEPT}
        sources = (Source.SETTINGS, Source.CLIENT, Source.MODEL)
        for source, layer in zip(sources, await self.layers(client, model), strict=False):
            for name in KEPT:
                if (value := getattr(layer, name)) is not None:
                    value = [value] if name == "stop" and isinstance(value, str) else value
                    shown[name] = Setting(value=value, source=source)
        return shown

    async def forget(self, client: str, model: str | None = None) -> None:
        """Drop what the client keeps for one model, or with None all that it keeps."""
        await self._store.forget(client, model)

    async def _below(self, client: str, model: str) -> list[Options]:
        return [self.defaults, await self._store.get(client)] if model else [self.defaults]
