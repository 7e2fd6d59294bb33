"""Which checkpoint a request means, and where it may run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain import device as devices
from lemonade_serve.domain.checkpoint import AUTO, CheckpointInfo, Task
from lemonade_serve.domain.device import Device, Unusable
from lemonade_serve.domain.events import CatalogueListed
from lemonade_serve.domain.names import ModelName, joined, parse
from lemonade_serve.domain.ports import CheckpointCatalog, Observer
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.residency.slot import Slot
from lemonade_serve.protocol.messages import Adapter

_ENCODES = ("cpu", "cpuexecutionprovider")
"""The execution provider that encoders run on, in lower case."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may say about loading.

    `keep_alive`: seconds that the checkpoint then stays unused; None as the settings say, below 0
    for ever.
    """

    model: str | None = None
    device: str = devices.HYBRID
    dtype: str = AUTO
    cache_dir: str | None = None
    keep_alive: float | None = None


class Located(NamedTuple):
    """What a request means: a checkpoint, where it may run, and the adapter, if it is one."""

    info: CheckpointInfo
    devices: Sequence[Device]
    adapter: Adapter | None = None

    @property
    def model(self) -> str:
        """What it is called."""
        return joined(self.info.name, self.adapter.name if self.adapter else None)


class Locator:
    """Finds checkpoints, in memory first and then on disk."""

    def __init__(
        self,
        catalog: CheckpointCatalog,
        pool: Pool,
        observer: Observer,
        *,
        default_model: str | None,
        unusable: Mapping[Device, Unusable] | None = None,
        aliases: Callable[[str], str] = str,
    ) -> None:
        """`aliases` says what a name stands for."""
        self._catalog = catalog
        self._pool = pool
        self._observer = observer
        self.default_model = default_model
        self.unusable = unusable or {}
        """Devices that the settings name, and that cannot serve."""
        self._aliases = aliases
        self.pull: Callable[[str, str], Awaitable[object]] | None = None
        """Gets a model, in a dtype, that is not here."""

    async def locate(self, placement: Placement, task: Task | None = None) -> Located:
        """The checkpoint and the devices that a request means: a resident one if it says no more
        of it than the name and the adapter, and what the disk has otherwise. With a `task`, one
        that is made for it. One that is not here is pulled, where the settings want that.

        Raises InvalidRequest, DeviceUnavailable, NoDevice, ModelNotFound, AdapterNotFound,
        NotAllowed, WrongTask, and what a pull fails with.
        """
        try:
            return await self.look(placement, task)
        except errors.AdapterNotFound:
            raise
        except errors.ModelNotFound:
            meant = self._meant(placement)
            if self.pull is None or placement.cache_dir is not None:
                raise
            if meant is None or "/" not in meant.model:
                raise
            await self.pull(meant.model, meant.dtype)
        return await self.look(placement, task)

    async def look(self, placement: Placement, task: Task | None = None) -> Located:
        """As `locate`, and nothing is pulled."""
        found = await self._locate(placement, task)
        if task is not None:
            found.info.check_task(task)
        if placement.device != devices.HYBRID:
            return found
        return found._replace(devices=self._fit(found.info, found.devices))

    async def _locate(self, placement: Placement, task: Task | None) -> Located:
        where = self.candidates(placement.device)
        resident = [slot for slot in self._pool.resident() if slot.key.device in where]
        meant = self._meant(placement)
        if placement.model is None:
            fit = [slot.info.name for slot in resident if task in (None, slot.info.task)]
            if fit and meant and fit[0] == meant.model:
                meant = meant._replace(dtype=placement.dtype)
            elif fit:
                meant = ModelName(fit[0], placement.dtype)
        if meant is None:
            raise errors.InvalidRequest(
                "no model is named, none is resident and no default_model is set", param="model"
            )
        if meant.dtype == AUTO and placement.cache_dir is None:
            for slot in resident:
                if slot.info.name == meant.model and (found := await self._in_memory(slot, meant)):
                    return found
        info = await asyncio.to_thread(
            self._catalog.find, meant.model, meant.dtype, placement.cache_dir, meant.adapter
        )
        return Located(info, where, info.adapter(meant.adapter) if meant.adapter else None)

    async def _in_memory(self, slot: Slot, meant: ModelName) -> Located | None:
        """What is loaded already, if the adapter lies beside it."""
        if meant.adapter is None:
            return Located(slot.info, [slot.key.device])
        for adapter in await asyncio.to_thread(self._catalog.adapters, slot.info):
            if adapter.name == meant.adapter:
                return Located(slot.info, [slot.key.device], adapter)
        return None

    def _meant(self, placement: Placement) -> ModelName | None:
        """What is asked for, or the default, if there is one: an alias stands for another name."""
        said = placement.model or self.default_model
        if said is None:
            return None
        name = parse(self._aliases(said))
        return name if placement.dtype == AUTO else name._replace(dtype=placement.dtype)

    def candidates(self, device: str) -> Sequence[Device]:
        """The devices that a request means. Raises DeviceUnavailable, NoDevice."""
        return devices.candidates(device, self._pool.available, self.unusable)

    def lacking(self) -> Sequence[str]:
        """Why nothing can be served; nothing where a device can."""
        return [] if self._pool.available else [devices.without_any(self.unusable)]

    def _fit(self, info: CheckpointInfo, where: Sequence[Device]) -> Sequence[Device]:
        """Of devices that nobody named: an encoder needs one whose execution provider is `cpu`."""
        if info.encoder is None:
            return where
        views = self._pool.devices()
        able = {view.device for view in views if view.execution_provider.lower() in _ENCODES}
        return [device for device in where if device.value in able] or where

    async def checkpoints(self, cache_dir: str | None = None) -> Sequence[CheckpointInfo]:
        """What is on disk. Raises NotAllowed for a directory outside the allowed roots."""
        found = await asyncio.to_thread(self._catalog.list, cache_dir)
        if cache_dir is None:
            models = {info.name for info in found} | {slot.model for slot in self._pool.slots()}
            encoders = {info.name: info.task.value for info in found if info.encoder}
            self._observer.observe(CatalogueListed(models=frozenset(models), encoders=encoders))
        return found

    def usual_device(self, info: CheckpointInfo) -> str:
        """Where a checkpoint is resident, or would be tried first; `hybrid` with no device."""
        for slot in self._pool.resident():
            if slot.info.path == info.path:
                return slot.key.device.value
        return next((device.value for device in self._pool.available), devices.HYBRID)
