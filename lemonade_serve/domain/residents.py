"""What callers do about residency itself: load, unload, pin, and look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain import device as devices
from lemonade_serve.domain.device import Device, Unusable
from lemonade_serve.domain.placement import Locator, Placement
from lemonade_serve.domain.ports import Pin, PinStore
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.residency.slot import DeviceView, SlotView


class Residents:
    """Pins are kept before they are in force, and so survive whoever was told of them."""

    def __init__(self, locator: Locator, pool: Pool, pins: PinStore) -> None:
        self._locator = locator
        self._pool = pool
        self._pins = pins
        self._pinning = asyncio.Lock()
        """Two writers of the file would lose each other's pins."""

    async def load(self, placement: Placement) -> SlotView:
        """Make a checkpoint resident. Raises ModelLoadError and what the locator and the pool
        refuse it with."""
        async with self._leased(placement) as view:
            return view

    async def unload(
        self, *, model: str | None = None, device: str | None = None, force: bool = False
    ) -> int:
        """Unload one model, one device's or all; returns how many left."""
        where = self._only(device)
        return await self._pool.unload(model=model, device=where, force=force)

    async def pin(self, placement: Placement) -> SlotView:
        """Load a checkpoint and exempt it from eviction, over restarts, until it is unpinned.

        Raises as `load`, and StoreUnavailable when the pin cannot be kept.
        """
        async with self._leased(placement) as view:  # or it might leave before the pin holds it
            pin = Pin(view.model, view.device, view.dtype)
            async with self._pinning:
                await self._keep(self._pool.pins | {pin})
            return msgspec.structs.replace(view, pinned=True)

    async def unpin(
        self, *, model: str | None = None, device: str | None = None, dtype: str | None = None
    ) -> int:
        """Take the pins of one model, one device or all back; returns how many there were."""
        where = self._only(device)
        async with self._pinning:
            going = {
                pin
                for pin in self._pool.pins
                if model in (None, pin.model)
                and where in (None, Device(pin.device))
                and dtype in (None, pin.dtype)
            }
            await self._keep(self._pool.pins - going)
        return len(going)

    async def restore_pins(self) -> None:
        """Put the pins that were kept in force. Raises StoreUnavailable."""
        self._pool.pin(await asyncio.to_thread(self._pins.load))

    async def preload(
        self, models: Iterable[str], failed: Callable[[str, errors.LemonadeError], None]
    ) -> None:
        """Load `models`, one after the other. One that cannot be loaded is told to `failed`, and
        the rest go on, unless the daemon is shutting down."""
        await self._load_all([Placement(model=name) for name in models], failed)

    async def preload_pinned(self, failed: Callable[[str, errors.LemonadeError], None]) -> None:
        """As `preload`, what is pinned."""
        pinned = [
            Placement(model=pin.model, device=pin.device, dtype=pin.dtype)
            for pin in sorted(self._pool.pins)
        ]
        await self._load_all(pinned, failed)

    async def _load_all(
        self,
        placements: Iterable[Placement],
        failed: Callable[[str, errors.LemonadeError], None],
    ) -> None:
        for placement in placements:
            try:
                await self.load(placement)
            except errors.Draining:
                return
            except errors.LemonadeError as error:
                failed(placement.model or "", error)

    def slots(self) -> Sequence[SlotView]:
        """What is in memory or on its way, the most recently used first."""
        return self._pool.slots()

    def device_views(self) -> Sequence[DeviceView]:
        """What this machine has, the preferred device first."""
        return self._pool.devices()

    def unusable_devices(self) -> Mapping[Device, Unusable]:
        """What it should have by its settings, and cannot use."""
        return self._locator.unusable

    @asynccontextmanager
    async def _leased(self, placement: Placement) -> AsyncGenerator[SlotView]:
        info, where, _ = await self._locator.locate(placement)
        lease = self._pool.acquire(info, where, keep_alive_s=placement.keep_alive)
        try:
            await lease.worker()
            yield self._pool.slot(lease.key)
        finally:
            lease.release()

    async def _keep(self, pins: frozenset[Pin]) -> None:
        await asyncio.to_thread(self._pins.save, pins)
        self._pool.pin(pins)

    def _only(self, device: str | None) -> Device | None:
        """The device that is named; None for any. Raises DeviceUnavailable, NoDevice."""
        if device in (None, devices.HYBRID):
            return None
        return self._locator.candidates(str(device))[0]
