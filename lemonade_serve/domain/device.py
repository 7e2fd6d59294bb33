"""Where a checkpoint runs."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from lemonade_serve.errors import DeviceUnavailable, NoDevice


class Device(enum.Enum):
    NPU = "npu"
    IGPU = "igpu"
    CPU = "cpu"


HYBRID = "hybrid"
"""A request's word for: the best device that has room."""


class DeviceBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What one device has room for. `memory_bytes` is for all its checkpoints together."""

    execution_provider: str
    max_models: int
    memory_bytes: int


Budgets = Mapping[Device, DeviceBudget]
"""The devices that there are, the preferred one first."""


class ExecutionProvider(msgspec.Struct, frozen=True, kw_only=True):
    """What ONNX Runtime runs a device's checkpoints with.

    `hardware` is the kind of device that it looks for: `npu`, `gpu` or `cpu`. `library` is its
    shared library, where it is a plugin.
    """

    name: str
    hardware: str
    library: str | None = None
    options: tuple[tuple[str, str], ...] = ()


class Unusable(msgspec.Struct, frozen=True, kw_only=True):
    """Why a device that the settings name cannot serve, and what to do about it."""

    execution_provider: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.advice})"


def candidates(
    requested: str, available: Sequence[Device], unusable: Mapping[Device, Unusable]
) -> Sequence[Device]:
    """The devices that a request may run on; `available` in order of preference.

    Raises DeviceUnavailable, with the reason and what there is, for a device that is not; NoDevice
    when there is none at all.
    """
    if not available:
        raise NoDevice(without_any(unusable))
    if requested == HYBRID:
        return available
    for device in available:
        if device.value == requested:
            return (device,)
    why = next((f": {why}" for device, why in unusable.items() if device.value == requested), "")
    names = ", ".join([HYBRID, *(device.value for device in available)])
    raise DeviceUnavailable(
        f"device {requested!r} is not available here{why}; available: {names}", param="device"
    )


def without_any(unusable: Mapping[Device, Unusable]) -> str:
    """Why nothing can be served."""
    each = "; ".join(f"{device.value}: {why}" for device, why in unusable.items())
    return f"no device can serve: {each}"
