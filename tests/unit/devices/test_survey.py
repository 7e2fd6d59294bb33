"""What is found at start: by real probes of what is not there, on machines made of files."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lemonade_serve.devices.survey import Survey, survey
from lemonade_serve.domain.device import Device, Unusable
from lemonade_serve.settings import Device as DeviceSettings
from lemonade_serve.settings import Devices
from tests.unit.devices.trees import grow

NO_SUCH = DeviceSettings(execution_provider="no-such")


def look(devices: Devices, root: Path) -> Survey:
    return asyncio.run(survey(devices, root=root))


def test_the_cpu_alone_is_not_probed(tmp_path: Path) -> None:
    cpu = DeviceSettings(execution_provider="cpu")
    never = ["/nowhere/probe"]
    looked = asyncio.run(survey(Devices(npu=cpu, cpu=cpu), root=tmp_path, command=never))
    assert looked.unusable == {}
    assert [finding.said for finding in looked.findings.values()] == [
        "runs on the CPU, which stands in for it",
        "runs on the CPU",
    ]


def test_those_that_cannot_serve_say_why_and_the_others_serve(tmp_path: Path) -> None:
    grow(tmp_path, {"/dev/accel/accel0": ""})
    looked = look(Devices(npu=NO_SUCH, igpu=NO_SUCH), tmp_path)
    assert looked.unusable == {
        Device.NPU: Unusable(
            execution_provider="no-such",
            reason="the execution provider no-such is not installed",
            advice="set devices.npu.library to its shared library, or install the package "
            "onnxruntime-ep-no-such",
        ),
        Device.IGPU: looked.unusable[Device.IGPU],
    }
    assert "there is no /dev/dri/renderD*" in looked.unusable[Device.IGPU].reason


def test_workers_are_told_of_the_library_that_the_probe_has_found(tmp_path: Path) -> None:
    library = str(tmp_path / "none.so")
    own = DeviceSettings(execution_provider="no-such", library=library)
    assert look(Devices(igpu=own), tmp_path).providers[Device.IGPU].library == library
    assert look(Devices(igpu=NO_SUCH), tmp_path).providers[Device.IGPU].library is None
