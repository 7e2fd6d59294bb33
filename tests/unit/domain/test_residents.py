"""Loading, unloading and pinning by a caller's word, over fakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.domain.events import CatalogueListed
from lemonade_serve.domain.placement import Locator, Placement
from lemonade_serve.domain.ports import Pin
from lemonade_serve.domain.residency.slot import SlotState
from lemonade_serve.domain.residents import Residents
from tests.fakes import (
    FakeCatalog,
    FakeLauncher,
    FakePinStore,
    RecordingObserver,
    asynchronous,
    checkpoint,
    new_pool,
    until,
)

SMALL, LARGE = checkpoint("small"), checkpoint("large")
TWO_DEVICES = {
    device: DeviceBudget(execution_provider="cpu", max_models=2, memory_bytes=1 << 40)
    for device in (Device.NPU, Device.CPU)
}


class House:
    """What stands around `Residents`."""

    def __init__(self, *pins: Pin, default_model: str | None = None, **bounds: Any) -> None:
        self.launcher = FakeLauncher()
        self.observer = RecordingObserver()
        self.pool = new_pool(self.launcher, self.observer, budgets=TWO_DEVICES, **bounds)
        self.pins = FakePinStore(*pins)
        self.locator = Locator(
            FakeCatalog(SMALL, LARGE, checkpoint("small", "fp32")),
            self.pool,
            self.observer,
            default_model=default_model,
        )
        self.residents = Residents(self.locator, self.pool, self.pins)
        self.failures: list[tuple[str, str]] = []

    @property
    def resident(self) -> list[tuple[str, str]]:
        return sorted((slot.model, slot.device) for slot in self.residents.slots())

    async def load(self, model: str, device: str = "hybrid") -> None:
        await self.residents.load(Placement(model=model, device=device))

    def failed(self, model: str, error: errors.LemonadeError) -> None:
        self.failures.append((model, error.code))


@asynchronous
async def test_loading_makes_resident_and_leases_nothing() -> None:
    house = House()
    view = await house.residents.load(Placement(model="large"))
    assert (view.model, view.device, view.state) == ("large", "npu", SlotState.RESIDENT)
    assert [slot.waiting for slot in house.residents.slots()] == [0]


@asynchronous
async def test_keep_alive_holds_for_a_load_too() -> None:
    house = House()
    await house.residents.load(Placement(model="small", keep_alive=0))
    await until(lambda: not house.residents.slots())


@asynchronous
async def test_unloading_takes_a_device_by_its_name() -> None:
    house = House()
    await house.load("small", "npu")
    await house.load("small", "cpu")
    assert await house.residents.unload(device="npu") == 1
    assert house.resident == [("small", "cpu")]
    with pytest.raises(errors.DeviceUnavailable):
        await house.residents.unload(device="igpu")


@asynchronous
async def test_hybrid_means_every_device_when_something_is_to_go() -> None:
    house = House()
    for device in ("npu", "cpu"):
        await house.residents.pin(Placement(model="small", device=device))
    assert await house.residents.unpin(device="hybrid") == 2
    assert await house.residents.unload(device="hybrid") == 2
    with pytest.raises(errors.DeviceUnavailable):
        await house.residents.unpin(device="tpu")


@asynchronous
async def test_a_pin_is_kept_and_in_force() -> None:
    house = House()
    view = await house.residents.pin(Placement(model="small", device="cpu"))
    assert view.pinned
    assert house.pins.pins == {Pin("small", "cpu", "int4")}
    assert [slot.pinned for slot in house.residents.slots()] == [True]


@asynchronous
async def test_a_model_cannot_leave_before_its_pin_is_in_force() -> None:
    house = House(idle_ttl_s=0)
    await house.residents.pin(Placement(model="small"))
    assert [(slot.model, slot.pinned) for slot in house.residents.slots()] == [("small", True)]


@asynchronous
async def test_a_pin_that_cannot_be_kept_is_not_in_force() -> None:
    house = House()
    house.pins.failure = errors.StoreUnavailable("the disk is full")
    with pytest.raises(errors.StoreUnavailable):
        await house.residents.pin(Placement(model="small"))
    assert [slot.pinned for slot in house.residents.slots()] == [False]


@asynchronous
async def test_pins_made_at_the_same_time_are_all_kept() -> None:
    house = House()
    await asyncio.gather(
        *(house.residents.pin(Placement(model=model)) for model in ("small", "large"))
    )
    assert {pin.model for pin in house.pins.pins} == {"small", "large"}


@asynchronous
async def test_an_unpin_loses_no_pin_that_is_being_kept() -> None:
    house = House()
    await house.residents.pin(Placement(model="small"))
    await asyncio.gather(
        house.residents.pin(Placement(model="large")), house.residents.unpin(model="small")
    )
    assert {pin.model for pin in house.pins.pins} == {"large"}


@asynchronous
async def test_unpinning_takes_back_what_it_names() -> None:
    house = House()
    for model, device in (("small", "cpu"), ("small", "npu"), ("large", "cpu")):
        await house.residents.pin(Placement(model=model, device=device))
    assert await house.residents.unpin(model="small", device="npu") == 1
    assert await house.residents.unpin(model="nobody") == 0
    assert await house.residents.unpin() == 2
    assert house.pins.pins == frozenset()


@asynchronous
async def test_kept_pins_are_in_force_and_loaded_again_after_a_restart() -> None:
    house = House(Pin("small", "cpu", "fp32"))
    await house.residents.restore_pins()
    await house.residents.preload_pinned(house.failed)
    await house.residents.preload(["large"], house.failed)
    assert house.resident == [("large", "npu"), ("small", "cpu")]
    (small,) = [slot for slot in house.residents.slots() if slot.model == "small"]
    assert (small.pinned, small.dtype) == (True, "fp32")


@asynchronous
async def test_what_cannot_be_preloaded_keeps_nothing_else_from_it() -> None:
    house = House(Pin("gone", "cpu", "int4"))
    await house.residents.restore_pins()
    await house.residents.preload_pinned(house.failed)
    await house.residents.preload(["nobody", "large"], house.failed)
    assert house.failures == [("gone", "model_not_found"), ("nobody", "model_not_found")]
    assert house.resident == [("large", "npu")]


@asynchronous
async def test_the_model_left_out_means_the_one_used_last() -> None:
    house = House(default_model="small")
    await house.load("large")
    info, where, _ = await house.locator.locate(Placement())
    assert (info.name, where) == ("large", [Device.NPU])


@asynchronous
async def test_the_model_left_out_means_the_default_one_when_none_is_resident() -> None:
    info, where, _ = await House(default_model="large").locator.locate(Placement())
    assert (info.name, where) == ("large", [Device.NPU, Device.CPU])


@asynchronous
async def test_a_model_that_is_leaving_is_not_the_one_used_last() -> None:
    house = House(default_model="small")
    lease = house.pool.acquire(LARGE, [Device.CPU])
    await lease.worker()
    unloading = asyncio.create_task(house.residents.unload())
    await until(lambda: house.residents.slots()[0].state is SlotState.DRAINING)
    info, *_ = await house.locator.locate(Placement())
    assert info.name == "small"
    lease.release()
    await unloading


@asynchronous
async def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="no model is named") as raised:
        await House().locator.locate(Placement())
    assert raised.value.param == "model"


@asynchronous
async def test_a_resident_checkpoint_serves_who_names_no_dtype() -> None:
    house = House()
    await house.residents.load(Placement(model="small", dtype="fp32", device="cpu"))
    info, where, _ = await house.locator.locate(Placement(model="small"))
    assert (info.dtype, where) == ("fp32", [Device.CPU])
    elsewhere, where, _ = await house.locator.locate(Placement(model="small", device="npu"))
    assert (elsewhere.dtype, where) == ("int4", (Device.NPU,))


@asynchronous
async def test_listing_the_catalogue_tells_what_there_is() -> None:
    house = House()
    found = await house.locator.checkpoints()
    assert {info.name for info in found} == {"small", "large"}
    assert house.observer.events == [CatalogueListed(models=frozenset({"small", "large"}))]


@asynchronous
async def test_a_checkpoint_is_usually_where_it_is_or_on_the_first_device() -> None:
    house = House()
    assert house.locator.usual_device(SMALL) == "npu"
    await house.load("small", "cpu")
    assert house.locator.usual_device(SMALL) == "cpu"
