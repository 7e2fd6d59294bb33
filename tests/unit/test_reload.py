"""New settings in a running house, over fakes."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from lemonade_serve import errors
from lemonade_serve.api.clients import Clients
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.completion import CompletionService
from lemonade_serve.domain.device import Device as Where
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.reload import Reached, Reloader, bounds, turns
from lemonade_serve.settings import Device, Devices, Log, Options, Settings, Worker
from lemonade_serve.settings import Pool as PoolSettings
from lemonade_serve.store.memory import MemoryParamsStore
from tests.fakes import (
    FakeCatalog,
    FakeLauncher,
    RecordingObserver,
    asynchronous,
    checkpoint,
    new_pool,
)

DEVICES = Devices(cpu=Device(execution_provider="cpu", memory_budget="1GiB"))
BEFORE = Settings(
    api_keys={"ann": "key-of-ann"},
    devices=DEVICES,
    pool=PoolSettings(preload=("small",)),
)


class House:
    def __init__(self, settings: Settings = BEFORE) -> None:
        observer = RecordingObserver()
        self.pool: Pool = new_pool(FakeLauncher(), observer)
        locator = Locator(FakeCatalog(checkpoint()), self.pool, observer, default_model=None)
        self.clients = Clients(settings.api_keys)
        self.params = ClientParams(MemoryParamsStore(max_clients=9), settings.parameters)
        self.service = CompletionService(
            locator, self.pool, self.params, observer, turns=turns(settings), clock=lambda: 0.0
        )
        self.preloads: list[str] = []
        self.locator = locator
        reached = Reached(self.clients, self.pool, locator, self.params, self.service)
        self.reloader = Reloader(settings, reached, preload=self.preloads.extend)

    async def reload(self, settings: Settings) -> bool:
        return await self.reloader.reload(lambda: settings, lambda _: None)

    def holder(self, key: str) -> str:
        return self.clients.identify([(b"authorization", f"Bearer {key}".encode())])


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    monkeypatch.setattr("lemonade_serve.reload.configure_logging", lambda _: None)
    with structlog.testing.capture_logs() as lines:
        yield lines


@asynchronous
async def test_what_can_change_reaches_everyone(lines: list[MutableMapping[str, Any]]) -> None:
    house = House()
    wanted = Settings(
        api_keys={"bob": "key-of-bob"},
        default_model="small",
        parameters=Options(top_k=7),
        devices=Devices(cpu=Device(execution_provider="cpu", max_models=9, memory_budget="2GiB")),
        pool=PoolSettings(preload=("small", "large"), queue_timeout_s=9),
        worker=Worker(client_weights={"bob": 3.0}, max_queue=1),
    )
    assert await house.reload(wanted)
    assert house.holder("key-of-bob") == "bob"
    with pytest.raises(errors.Unauthenticated):
        house.holder("key-of-ann")
    assert house.locator.default_model == "small"
    assert house.params.defaults.top_k == 7
    assert (house.service.turns.timeout_s, house.service.turns.client_weights) == (9, {"bob": 3.0})
    (device,) = house.pool.devices()
    assert (device.max_models, device.memory_budget_bytes) == (9, 2 << 30)
    assert house.preloads == ["large"]
    assert house.reloader.settings == wanted
    (line,) = lines
    assert line["event"] == "settings_reloaded"
    assert line["applied"] == [
        "api_keys",
        "default_model",
        "parameters.top_k",
        "devices.cpu.max_models",
        "devices.cpu.memory_budget",
        "pool.preload",
        "pool.queue_timeout_s",
        "worker.max_queue",
        "worker.client_weights",
    ]


@asynchronous
async def test_what_cannot_change_is_named_and_nothing_of_it_holds(
    lines: list[MutableMapping[str, Any]],
) -> None:
    house = House()
    devices = msgspec.structs.replace(DEVICES, npu=Device(execution_provider="cpu"))
    assert await house.reload(msgspec.structs.replace(BEFORE, devices=devices, cache_dir="/x"))
    assert list(house.pool.available) == [Where.CPU]
    assert house.reloader.settings == BEFORE
    said, waits = lines
    assert said["applied"] == []
    assert waits["log_level"] == "warning"
    assert waits["keys"] == ["cache_dir", "devices.npu.execution_provider"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_keys": {"ann": "one", "bob": "one"}},
        {"api_keys_file": "/does/not/exist"},
        {"devices": Devices(npu=Device(max_models=2, memory_budget="999TiB"))},
    ],
)
def test_settings_that_cannot_be_change_nothing(
    wrong: dict[str, Any], lines: list[MutableMapping[str, Any]]
) -> None:
    npu = Device(execution_provider="cpu")
    before = msgspec.structs.replace(BEFORE, devices=Devices(npu=npu))

    @asynchronous
    async def ask() -> None:
        house = House(before)
        changed = {"default_model": "small", "parameters": Options(top_k=7), **wrong}
        assert not await house.reload(msgspec.structs.replace(before, **changed))
        assert (house.locator.default_model, house.params.defaults) == (None, Options())
        assert house.holder("key-of-ann") == "ann"
        assert house.reloader.settings == before

    ask()
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("settings_refused", "error")
    assert "one" not in line["reason"].split()


@asynchronous
async def test_a_file_that_cannot_be_read_and_a_door_that_may_not_open_change_nothing(
    lines: list[MutableMapping[str, Any]],
) -> None:
    def refuse(*_: object) -> Settings:
        raise errors.SettingsError("no")

    house = House()
    assert not await house.reloader.reload(refuse, lambda _: None)
    asked: list[bool] = []

    def closed(keys: bool) -> None:
        asked.append(keys)
        refuse()

    keyless = msgspec.structs.replace(BEFORE, api_keys={})
    assert not await house.reloader.reload(lambda: keyless, closed)
    assert asked == [False]
    assert house.clients.known
    assert [line["event"] for line in lines] == ["settings_refused"] * 2


@asynchronous
async def test_other_lines_in_the_file_of_keys_are_a_change(
    lines: list[MutableMapping[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text('bob = "first"')
    settings = msgspec.structs.replace(BEFORE, api_keys_file=str(file))
    house = House()
    await house.reload(settings)
    file.write_text('bob = "second"')
    await house.reload(settings)
    await house.reload(settings)
    assert house.holder("second") == "bob"
    assert [line["applied"] for line in lines] == [["api_keys", "api_keys_file"], ["api_keys"], []]


def test_the_pool_keeps_to_the_settings_of_the_same_names() -> None:
    found = bounds(Settings(pool=PoolSettings(idle_ttl_s=0), log=Log()))
    assert (found.idle_ttl_s, found.max_queue) == (None, 64)
    assert bounds(Settings(pool=PoolSettings(idle_ttl_s=9))).idle_ttl_s == 9
