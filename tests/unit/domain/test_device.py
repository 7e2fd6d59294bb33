"""Where a request is placed."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.device import Device, place


def test_hybrid_means_the_preferred_device() -> None:
    assert place("hybrid", [Device.NPU, Device.CPU]) is Device.NPU
    assert place("hybrid", [Device.CPU]) is Device.CPU


def test_a_device_that_is_named_is_exact() -> None:
    assert place("cpu", [Device.NPU, Device.CPU]) is Device.CPU


@pytest.mark.parametrize("device", ["igpu", "gpu", "CPU", ""])
def test_a_device_that_is_not_there_is_an_error_that_says_what_is(device: str) -> None:
    with pytest.raises(errors.DeviceUnavailable, match="available: hybrid, npu, cpu") as raised:
        place(device, [Device.NPU, Device.CPU])
    assert raised.value.param == "device"
