"""Who may compute at the same time."""

from __future__ import annotations

import pytest

from lemonade_serve.domain.device import Device
from lemonade_serve.runtime.lanes import Lanes


def enter(lanes: Lanes, *devices: Device) -> list[int]:
    return [lanes.enter(device) for device in devices]


@pytest.mark.parametrize(("cpus", "threads"), [(2, 2), (8, 8), (8, 5), (2, 16), (1, 1)])
def test_workers_that_need_more_than_half_of_the_cpus_take_turns(cpus: int, threads: int) -> None:
    lanes = Lanes(cpus=cpus, threads=threads)
    assert enter(lanes, *[Device.CPU] * 3) == [0, 0, 0]


@pytest.mark.parametrize(("cpus", "threads", "abreast"), [(2, 1, 2), (8, 2, 4), (7, 2, 3)])
def test_as_many_compute_at_once_as_have_cpus(cpus: int, threads: int, abreast: int) -> None:
    lanes = Lanes(cpus=cpus, threads=threads)
    assert enter(lanes, *[Device.CPU] * 2 * abreast) == [*range(abreast)] * 2


def test_a_newcomer_takes_turns_with_as_few_as_may_be() -> None:
    lanes = Lanes(cpus=3, threads=1)
    enter(lanes, *[Device.CPU] * 6)
    for lane in (1, 2, 2):
        lanes.leave(lane)
    assert enter(lanes, *[Device.CPU] * 4) == [2, 1, 2, 0]


def test_devices_that_share_the_cpus_share_their_lanes() -> None:
    lanes = Lanes(cpus=2, threads=1)
    assert enter(lanes, Device.NPU, Device.CPU, Device.NPU) == [0, 1, 0]


def test_what_computes_apart_has_a_lane_to_itself() -> None:
    lanes = Lanes(cpus=4, threads=2, apart=[Device.NPU, Device.IGPU])
    devices = [Device.IGPU, Device.NPU, Device.NPU, Device.CPU, Device.CPU, Device.IGPU]
    assert enter(lanes, *devices) == [3, 2, 2, 0, 1, 3]
