"""What a container needs for the devices of its host."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemonade_serve.devices.container import is_container, pass_on
from lemonade_serve.devices.nodes import Node
from tests.unit.devices.trees import grow

NPU, IGPU = "/dev/accel/accel0", "/dev/dri/renderD128"
INTEL_NPU = "LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER=openvino"


def node(path: str, vendor: str = "Intel", *, gid: int = 992, open_to_all: bool = False) -> Node:
    kind = "npu" if "accel" in path else "gpu"
    return Node(
        path=path,
        kind=kind,
        gid=gid,
        group=None,
        error=0,
        vendor=vendor,
        open_to_all=open_to_all,
    )


def flags(*nodes: Node) -> str:
    return " ".join(pass_on(nodes).flags())


def test_intels_npu_and_gpu_are_for_openvino() -> None:
    assert flags(node(NPU), node(IGPU)) == (
        f"--device {NPU} --device {IGPU} --group-add 992 -e {INTEL_NPU} "
        "-e LEMONADE_DEVICES__IGPU__EXECUTION_PROVIDER=openvino lemonade-serve:openvino"
    )
    assert pass_on([node(NPU), node(IGPU)]).notes == ()


def test_another_gpu_is_for_webgpu() -> None:
    assert flags(node(IGPU, "AMD", gid=105)) == (
        f"--device {IGPU} --group-add 105 "
        "-e LEMONADE_DEVICES__IGPU__EXECUTION_PROVIDER=webgpu lemonade-serve:webgpu"
    )


def test_amds_npu_needs_what_no_image_has() -> None:
    passing = pass_on([node(NPU, "AMD")])
    assert " ".join(passing.flags()) == (
        f"--device {NPU} --group-add 992 --ulimit memlock=-1 lemonade-serve:cpu"
    )
    (note,) = passing.notes
    assert "LEMONADE_DEVICES__NPU__LIBRARY" in note


def test_an_image_has_one_of_the_two() -> None:
    passing = pass_on([node(NPU), node(IGPU, "AMD")])
    assert passing.image == "lemonade-serve:openvino"
    assert "add onnxruntime-ep-webgpu" in passing.notes[0]


def test_groups_are_told_once_and_only_where_they_are_needed() -> None:
    nodes = [
        node(NPU, gid=993),
        node(IGPU, gid=992),
        node("/dev/dri/renderD129", gid=992),
        node("/dev/dri/renderD130", gid=7, open_to_all=True),
    ]
    assert pass_on(nodes).groups == (992, 993)


def test_nvidias_gpus_are_left_out() -> None:
    passing = pass_on([node(IGPU, "NVIDIA")])
    assert list(passing.flags()) == ["lemonade-serve:cpu"]
    assert "container toolkit" in passing.notes[0]


def test_an_npu_of_a_stranger_is_passed_and_left_to_the_operator() -> None:
    passing = pass_on([node(NPU, "")])
    assert passing.devices == (NPU,)
    assert passing.environment == {}
    assert passing.notes == (f"{NPU} is of nobody known: set what runs it.",)


def test_a_machine_without_any_gets_the_small_image() -> None:
    assert flags() == "lemonade-serve:cpu"
    assert "CPU only" in pass_on([]).notes[0]


def test_compose_gets_the_same() -> None:
    assert (
        pass_on([node(NPU, "AMD"), node(IGPU)]).compose()
        == f"""\
services:
  import: {{image: "lemonade-serve:openvino"}}
  lemonade:
    image: lemonade-serve:openvino
    build: {{target: openvino}}
    devices:
      - {NPU}:{NPU}
      - {IGPU}:{IGPU}
    group_add:
      - "992"
    ulimits:
      memlock: -1
    environment:
      LEMONADE_DEVICES__IGPU__EXECUTION_PROVIDER: openvino"""
    )
    assert pass_on([]).compose().splitlines()[-2:] == [
        "    image: lemonade-serve:cpu",
        "    build: {target: cpu}",
    ]


@pytest.mark.parametrize("mark", ["/.dockerenv", "/run/.containerenv"])
def test_a_container_is_known_by_what_its_engine_leaves(tmp_path: Path, mark: str) -> None:
    assert not is_container(tmp_path)
    assert is_container(grow(tmp_path, {mark: ""}))
