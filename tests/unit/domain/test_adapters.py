"""Which checkpoint a request with an adapter means, over fakes."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.domain.placement import Locator, Placement
from lemonade_serve.domain.residents import Residents
from lemonade_serve.protocol.messages import Adapter
from tests.fakes import (
    FakeCatalog,
    FakeLauncher,
    FakePinStore,
    RecordingObserver,
    asynchronous,
    checkpoint,
    new_pool,
)

PIRATE, FORMAL = (Adapter(name, f"/cache/{name}", 10, 0) for name in ("pirate", "formal"))
SMALL = checkpoint("small", adapters=(FORMAL, PIRATE))
LARGE = checkpoint("small", "fp32", adapters=(FORMAL,))
ROOM = {Device.CPU: DeviceBudget(execution_provider="cpu", max_models=9, memory_bytes=1 << 40)}


class House:
    def __init__(self, *infos: CheckpointInfo, default_model: str | None = None) -> None:
        self.launcher, observer = FakeLauncher(), RecordingObserver()
        self.pool = new_pool(self.launcher, observer, budgets=ROOM)
        catalog = FakeCatalog(*(infos or (SMALL, LARGE, checkpoint("org/bare"))))
        self.locator = Locator(catalog, self.pool, observer, default_model=default_model)
        self.residents = Residents(self.locator, self.pool, FakePinStore())

    async def meant(self, model: str | None, **placement: str) -> tuple[str, str]:
        found = await self.locator.locate(Placement(model=model, **placement))
        return found.model, found.info.dtype


@asynchronous
async def test_an_adapter_comes_with_the_checkpoint_beside_which_it_lies() -> None:
    house = House()
    found = await house.locator.locate(Placement(model="small:pirate"))
    assert (found.info, found.adapter, found.model) == (SMALL, PIRATE, "small:pirate")
    assert await house.meant("small:fp32:formal") == ("small:formal", "fp32")
    assert await house.meant("small:formal", dtype="fp32") == ("small:formal", "fp32")
    assert (await house.locator.locate(Placement(model="small"))).adapter is None


@asynchronous
async def test_a_checkpoint_in_memory_serves_its_adapters_too() -> None:
    house = House()
    await house.residents.load(Placement(model="small:fp32:formal"))
    assert await house.meant("small:formal") == ("small:formal", "fp32")
    assert await house.meant("small:pirate") == ("small:pirate", "int4")  # only that has it
    await house.residents.load(Placement(model="small:fp32"))
    assert len(house.launcher.launches) == 1


@asynchronous
async def test_an_adapter_that_is_not_there_is_an_error_and_no_reason_to_pull() -> None:
    house = House()

    async def pull(model: str, dtype: str) -> None:
        raise AssertionError(model)

    house.locator.pull = pull
    for name in ("org/bare:pirate", "small:fp32:pirate", "small:lazy"):
        with pytest.raises(errors.AdapterNotFound):
            await house.meant(name)


@asynchronous
async def test_a_model_that_is_not_here_is_pulled_without_its_adapters_name() -> None:
    house, pulled = House(), list[tuple[str, str]]()

    async def pull(model: str, dtype: str) -> None:
        pulled.append((model, dtype))

    house.locator.pull = pull
    with pytest.raises(errors.ModelNotFound):
        await house.meant("org/new:int8:pirate")
    assert pulled == [("org/new", "int8")]


@asynchronous
async def test_the_default_model_may_be_an_adapter() -> None:
    house = House(default_model="small:pirate")
    assert await house.meant(None) == ("small:pirate", "int4")
    await house.residents.load(Placement(model="org/bare"))
    assert await house.meant(None) == ("org/bare", "int4")
    await house.residents.load(Placement(model="small"))
    assert await house.meant(None) == ("small:pirate", "int4")


@asynchronous
async def test_an_alias_may_stand_for_an_adapter() -> None:
    house = House()
    house.locator._aliases = {"chat": "small:pirate"}.get  # type: ignore[assignment]
    assert await house.meant("chat") == ("small:pirate", "int4")
