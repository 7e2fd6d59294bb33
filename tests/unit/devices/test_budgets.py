"""What each device has room for."""

from __future__ import annotations

import pytest

from lemonade_serve.devices.budgets import budgets
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Device as DeviceSettings
from lemonade_serve.settings import Devices

TOTAL = 1000


def on(budget: int | str = "auto") -> DeviceSettings:
    return DeviceSettings(execution_provider="cpu", memory_budget=budget)


def shares(devices: Devices) -> dict[str, int]:
    return {device.value: b.memory_bytes for device, b in budgets(devices, TOTAL).items()}


def test_by_default_there_is_the_cpu_and_it_gets_four_fifths() -> None:
    assert budgets(Devices(), TOTAL) == {
        Device.CPU: DeviceBudget(execution_provider="cpu", max_models=4, memory_bytes=800)
    }


def test_all_that_say_nothing_share_evenly() -> None:
    assert shares(Devices(npu=on(), igpu=on())) == {"npu": 266, "igpu": 266, "cpu": 266}


def test_what_is_said_in_numbers_goes_off_first() -> None:
    assert shares(Devices(npu=on(200), igpu=on())) == {"npu": 200, "igpu": 300, "cpu": 300}


def test_a_device_that_is_not_offered_takes_nothing() -> None:
    devices = Devices(npu=DeviceSettings(memory_budget=200), igpu=DeviceSettings())
    assert shares(devices) == {"cpu": 800}


def test_a_device_may_be_taken_away() -> None:
    devices = Devices(npu=on(), cpu=DeviceSettings(execution_provider=""))
    assert shares(devices) == {"npu": 800}


def test_numbers_need_no_share_of_the_machine() -> None:
    assert shares(Devices(npu=on("1KiB"), cpu=on(TOTAL))) == {"npu": 1024, "cpu": TOTAL}


@pytest.mark.parametrize("taken", [800, 799, 5000])
def test_nothing_left_is_an_error_that_names_the_key(taken: int) -> None:
    devices = Devices(npu=on(taken), igpu=on())
    with pytest.raises(SettingsError, match=r"devices\.igpu\.memory_budget"):
        budgets(devices, TOTAL)


def test_the_order_is_the_settings_order_and_the_rest_comes_last() -> None:
    devices = Devices(npu=on(), igpu=on(), order=("cpu", "igpu"))
    assert list(budgets(devices, TOTAL)) == [Device.CPU, Device.IGPU, Device.NPU]
    assert list(budgets(Devices(igpu=on(), order=()), TOTAL)) == [Device.IGPU, Device.CPU]


def test_a_device_is_named_once() -> None:
    with pytest.raises(SettingsError, match=r"devices\.order names cpu twice"):
        budgets(Devices(order=("cpu", "npu", "cpu")), TOTAL)


def test_no_device_at_all_is_an_error() -> None:
    with pytest.raises(SettingsError, match="no device is offered"):
        budgets(Devices(cpu=DeviceSettings()), TOTAL)


def test_what_cannot_serve_leaves_its_share_to_the_others() -> None:
    devices = Devices(npu=on(), igpu=on(200))
    assert list(budgets(devices, TOTAL, unusable={Device.NPU})) == [Device.IGPU, Device.CPU]
    assert budgets(devices, TOTAL, unusable={Device.NPU})[Device.CPU].memory_bytes == 600


def test_that_no_device_can_serve_is_no_fault_of_the_settings() -> None:
    assert budgets(Devices(), TOTAL, unusable={Device.CPU}) == {}
