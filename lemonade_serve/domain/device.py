"""Where a checkpoint runs."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from lemonade_serve.errors import DeviceUnavailable


class Device(enum.Enum):
    NPU = "npu"
    IGPU = "igpu"
    CPU = "cpu"


HYBRID = "hybrid"
"""A request's word for: the best device that there is."""


def place(requested: str, available: Sequence[Device]) -> Device:
    """The device for a request; `available` in order of preference, not empty.

    Raises DeviceUnavailable, naming what there is, for a device that is not.
    """
    if requested == HYBRID:
        return available[0]
    for device in available:
        if device.value == requested:
            return device
    names = ", ".join([HYBRID, *(device.value for device in available)])
    raise DeviceUnavailable(
        f"device {requested!r} is not available here; available: {names}", param="device"
    )
