"""How the memory is shared among the devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lemonade_serve.devices.providers import short
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Device as DeviceSettings
from lemonade_serve.settings import Devices, memory_bytes


def budgets(
    devices: Devices, memory_total_bytes: int, *, unusable: Collection[Device] = ()
) -> dict[Device, DeviceBudget]:
    """The devices that are offered and not `unusable`, the preferred one first; those that
    `devices.order` does not name come last. They share the machine's memory: four fifths of it,
    less what is said in numbers, goes in even parts to those whose budget is `auto`.

    Raises SettingsError when no device is offered, one is named twice, or nothing is left.
    """
    offered = {device: own for device in _order(devices) if (own := _offered(devices, device))}
    if not offered:
        raise SettingsError(
            "no device is offered: set devices.cpu.execution_provider to cpu, or another's"
        )
    for device in unusable:
        offered.pop(device, None)
    said = {device: memory_bytes(own.memory_budget) for device, own in offered.items()}
    share = _share(said, memory_total_bytes)
    return {
        device: DeviceBudget(
            execution_provider=own.execution_provider or "",
            max_models=own.max_models,
            memory_bytes=share if (number := said[device]) is None else number,
        )
        for device, own in offered.items()
    }


def execution_providers(devices: Devices) -> tuple[str, ...]:
    """What the devices that are offered run with, in short, the preferred one first."""
    offered = [_offered(devices, device) for device in _order(devices)]
    return tuple(short(own.execution_provider or "") for own in offered if own)


def _order(devices: Devices) -> Sequence[Device]:
    order = [Device(name) for name in devices.order]
    if twice := [device.value for device in Device if order.count(device) > 1]:
        raise SettingsError(f"devices.order names {twice[0]} twice")
    return [*order, *(device for device in Device if device not in order)]


def _offered(devices: Devices, device: Device) -> DeviceSettings | None:
    own: DeviceSettings = getattr(devices, device.value)
    return own if own.execution_provider else None


def _share(said: Mapping[Device, int | None], memory_total_bytes: int) -> int:
    """What each of those gets that say nothing."""
    auto = [device.value for device, number in said.items() if number is None]
    left = memory_total_bytes * 4 // 5 - sum(number or 0 for number in said.values())
    share = left // len(auto) if auto else 0
    if auto and share <= 0:
        raise SettingsError(
            f"nothing is left for devices.{auto[0]}.memory_budget: the budgets of the other "
            f"devices take four fifths of this machine's memory ({memory_total_bytes} bytes). "
            "Lower them, or say a number here too"
        )
    return share
