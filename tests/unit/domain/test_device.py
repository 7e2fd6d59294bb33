"""Where a request is placed."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.device import Device, candidates


def test_hybrid_means_any_device_the_preferred_one_first() -> None:
    assert candidates("hybrid", [Device.NPU, Device.CPU], {}) == [Device.NPU, Device.CPU]


def test_a_device_that_is_named_is_exact() -> None:
    assert candidates("cpu", [Device.NPU, Device.CPU], {}) == (Device.CPU,)


@pytest.mark.parametrize("device", ["igpu", "gpu", "CPU", ""])
def test_a_device_that_is_not_there_is_an_error_that_says_what_is(device: str) -> None:
    with pytest.raises(errors.DeviceUnavailable, match="available: hybrid, npu, cpu") as raised:
        candidates(device, [Device.NPU, Device.CPU], {})
    assert raised.value.param == "device"
