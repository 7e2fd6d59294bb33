"""Where a request is placed."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.device import Device, Unusable, candidates


def test_hybrid_means_any_device_the_preferred_one_first() -> None:
    assert candidates("hybrid", [Device.NPU, Device.CPU], {}) == [Device.NPU, Device.CPU]


def test_a_device_that_is_named_is_exact() -> None:
    assert candidates("cpu", [Device.NPU, Device.CPU], {}) == (Device.CPU,)


@pytest.mark.parametrize("device", ["igpu", "gpu", "CPU", ""])
def test_a_device_that_is_not_there_is_an_error_that_says_what_is(device: str) -> None:
    with pytest.raises(errors.DeviceUnavailable, match="available: hybrid, npu, cpu") as raised:
        candidates(device, [Device.NPU, Device.CPU], {})
    assert raised.value.param == "device"


class TestUnusable:
    why = Unusable(execution_provider="openvino", reason="it is gone", advice="find it")

    def test_a_device_that_cannot_serve_says_why_and_what_to_do(self) -> None:
        with pytest.raises(errors.DeviceUnavailable) as raised:
            candidates("npu", [Device.CPU], {Device.NPU: self.why})
        assert raised.value.message == (
            "device 'npu' is not available here: it is gone (find it); available: hybrid, cpu"
        )

    @pytest.mark.parametrize("device", ["hybrid", "npu", "cpu"])
    def test_without_any_device_it_is_the_servers_fault(self, device: str) -> None:
        with pytest.raises(errors.NoDevice, match="no device can serve: npu: it is gone"):
            candidates(device, [], {Device.NPU: self.why})
