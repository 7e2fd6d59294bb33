"""Where a checkpoint runs."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from lemonade_serve.errors import DeviceUnavailable


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


def candidates(requested: str, available: Sequence[Device]) -> Sequence[Device]:
    """The devices that a request may run on; `available` in order of preference, not empty.

    Raises DeviceUnavailable, naming what there is, for a device that is not.
    """
    if requested == HYBRID:
        return available
    for device in available:
        if device.value == requested:
            return (device,)
    names = ", ".join([HYBRID, *(device.value for device in available)])
    raise DeviceUnavailable(
        f"device {requested!r} is not available here; available: {names}", param="device"
    )
