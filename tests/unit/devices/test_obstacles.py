"""The one line of a device: every reason why it cannot serve, and what to do about it."""

from __future__ import annotations

import errno

import pytest

from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.devices.nodes import Node
from lemonade_serve.devices.obstacles import check_device, check_devices
from lemonade_serve.devices.providers import Probe, Probed, ProbeFailed, Seen
from lemonade_serve.domain.device import Device, ExecutionProvider

LIBRARY = "/lib/plugin.so"
NPU = Seen(provider="OpenVINOExecutionProvider", kind="npu", vendor="Intel", name="AI Boost")
CPU = Seen(provider="OpenVINOExecutionProvider", kind="cpu", vendor="Intel")


def probe(*devices: Seen, library: str | None = LIBRARY, **said: object) -> Probe:
    return Probe(
        onnxruntime="1.0",
        onnxruntime_genai="0.1",
        built_in=("CPUExecutionProvider",),
        devices=devices,
        library=library,
        **said,  # type: ignore[arg-type]
    )


def node(error: int = 0, *, path: str = "/dev/accel/accel0", group: str | None = "render") -> Node:
    kind = "npu" if "accel" in path else "gpu"
    return Node(path=path, kind=kind, gid=992, group=group, error=error)


def check(
    probed: Probed | None,
    *nodes: Node,
    name: str = "openvino",
    device: Device = Device.NPU,
    hardware: str = "npu",
) -> Finding:
    provider = ExecutionProvider(name=name, hardware=hardware)
    finding = check_device(device, provider, probed, nodes)
    assert finding.subject == f"devices.{device.value}"
    assert (finding.level is Level.FAIL) == bool(finding.advice)
    assert "\n" not in finding.said + finding.advice
    return finding


class TestServes:
    def test_the_cpu_needs_no_probe(self) -> None:
        finding = check(None, name="cpu", device=Device.CPU, hardware="cpu")
        assert finding.said == "runs on the CPU"

    def test_the_cpu_may_stand_in(self) -> None:
        finding = check(None, name="CPUExecutionProvider", hardware="cpu")
        assert finding.said == "runs on the CPU, which stands in for it"

    def test_what_it_found_is_told(self) -> None:
        finding = check(probe(CPU, NPU), node())
        assert finding.said == "openvino runs on a npu of Intel (AI Boost)"

    def test_device_files_do_not_matter_then(self) -> None:
        assert check(probe(NPU), node(errno.EACCES)).level is Level.OK

    def test_hardware_of_another_kind_is_used_if_it_was_asked_for(self) -> None:
        finding = check(probe(CPU), hardware="cpu")
        assert finding.said == "openvino runs on a cpu of Intel"

    def test_one_that_is_built_in_serves_without_a_library(self) -> None:
        cuda = Seen(provider="CUDAExecutionProvider", kind="gpu", vendor="")
        finding = check(probe(cuda, library=None), name="cuda", hardware="gpu")
        assert finding.said == "cuda runs on a gpu of no name"


class TestDeviceFiles:
    @pytest.mark.parametrize(
        ("hardware", "file", "driver"),
        [("npu", "/dev/accel/accel*", "intel_vpu"), ("gpu", "/dev/dri/renderD*", "amdgpu")],
    )
    def test_without_one(self, hardware: str, file: str, driver: str) -> None:
        finding = check(probe(), hardware=hardware)
        assert finding.said == f"there is no {file}"
        assert driver in finding.advice
        assert "doctor --docker" in finding.advice

    def test_one_of_another_group_says_which_to_join(self) -> None:
        finding = check(probe(), node(errno.EACCES))
        assert finding.said == (
            "/dev/accel/accel0 may not be opened: it belongs to the group render (gid 992)"
        )
        assert "usermod -aG render" in finding.advice
        assert "--group-add 992" in finding.advice

    def test_a_group_may_have_no_name_here(self) -> None:
        finding = check(probe(), node(errno.EACCES, group=None))
        assert "without a name here (gid 992)" in finding.said
        assert "usermod -aG 992" in finding.advice

    def test_one_that_the_container_was_not_given_says_how_to_give_it(self) -> None:
        finding = check(probe(), node(errno.EPERM))
        assert finding.said == (
            "/dev/accel/accel0 may not be opened: this container was not given it"
        )
        assert finding.advice == "start the container with --device /dev/accel/accel0"

    def test_one_without_a_driver_behind_it_says_so(self) -> None:
        finding = check(probe(), node(errno.ENXIO))
        assert finding.said == "/dev/accel/accel0 does not open: No such device or address"
        assert "dmesg" in finding.advice

    def test_those_of_other_hardware_do_not_count(self) -> None:
        said = check(probe(), node(path="/dev/dri/renderD128")).said
        assert said == "there is no /dev/accel/accel*"

    def test_one_that_opens_is_enough(self) -> None:
        closed, opens = node(errno.EACCES), node(path="/dev/accel/accel1")
        said = check(probe(), closed, opens).said
        assert said.startswith("openvino sees no npu, although /dev/accel/accel1 opens")


class TestExecutionProvider:
    @pytest.mark.parametrize("name", ["openvino", "webgpu"])
    def test_one_of_ours_that_is_not_installed(self, name: str) -> None:
        finding = check(probe(library=None), node(), name=name)
        assert finding.said == f"the execution provider {name} is not installed"
        assert finding.advice == (
            f"pip install 'lemonade-serve[{name}]', or use the image lemonade-serve:{name}"
        )

    def test_another_that_is_not_installed(self) -> None:
        finding = check(probe(library=None), node(), name="VitisAIExecutionProvider")
        assert "devices.npu.library" in finding.advice
        assert "onnxruntime-ep-vitisai" in finding.advice

    def test_two_reasons_are_told_in_one_line(self) -> None:
        finding = check(probe(library=None), node(errno.EACCES))
        assert "(gid 992); the execution provider openvino is not" in finding.said
        assert "--group-add 992; pip install" in finding.advice

    def test_a_library_that_lacks_another_names_it(self) -> None:
        error = (
            f"Failed to load library {LIBRARY} with error: libopenvino.so.2641: cannot open "
            "shared object file: No such file or directory"
        )
        finding = check(probe(library_error=error), node())
        assert finding.said == f"its library does not load: {error}"
        assert finding.advice == (
            f"install the package that has libopenvino.so.2641; ldd {LIBRARY} lists all it needs"
        )

    def test_a_library_that_is_not_there_is_a_wrong_setting(self) -> None:
        error = f"Failed to load library {LIBRARY} with error: {LIBRARY}: cannot open shared object"
        finding = check(probe(library_error=f"{error} file: No such file or directory"), node())
        assert finding.advice.startswith("correct the setting")

    def test_a_library_that_is_none_is_not_for_this_version(self) -> None:
        finding = check(probe(library_error="undefined symbol: CreateEpFactories"), node())
        assert "undefined symbol" in finding.said
        assert "version of onnxruntime" in finding.advice

    def test_a_driver_that_is_not_there_is_named(self) -> None:
        finding = check(probe(CPU, drivers_missing=("libze_loader.so.1",)), node())
        assert finding.said == (
            "openvino sees no npu, but a cpu, although /dev/accel/accel0 opens: "
            "libze_loader.so.1 is not installed"
        )
        assert "intel-level-zero-npu" in finding.advice
        assert "image lemonade-serve:openvino" in finding.advice

    def test_a_driver_that_is_not_there_is_told_beside_the_device_file(self) -> None:
        finding = check(probe(drivers_missing=("libvulkan.so.1",)), name="webgpu", hardware="gpu")
        assert finding.said == (
            "there is no /dev/dri/renderD*; webgpu sees no gpu: libvulkan.so.1 is not installed"
        )
        assert "mesa-vulkan-drivers" in finding.advice

    def test_a_driver_that_is_too_old(self) -> None:
        finding = check(probe(), node())
        assert finding.said == (
            "openvino sees no npu, although /dev/accel/accel0 opens: its driver is not here, "
            "too old, or not for it"
        )
        assert finding.advice.startswith("install or update Intel's NPU driver")

    def test_a_cpu_that_it_does_not_take(self) -> None:
        finding = check(probe(), name="other", device=Device.CPU, hardware="cpu")
        assert finding.said == "other sees no cpu: its driver is not here, too old, or not for it"
        assert finding.advice == "install or update the driver"

    def test_a_device_that_does_not_add_two_numbers(self) -> None:
        finding = check(probe(NPU, session_error="compiler: unsupported platform"), node())
        assert finding.said == (
            "openvino sees a npu, and does not run on it: compiler: unsupported platform"
        )

    @pytest.mark.parametrize(
        "reason", ["it was killed by signal 11 (SIGSEGV)", "it did not answer within 20 s"]
    )
    def test_a_probe_that_crashed_or_hung(self, reason: str) -> None:
        finding = check(ProbeFailed(reason), node())
        assert finding.said == f"the probe of openvino found nothing: {reason}"
        assert "dmesg" in finding.advice
        assert "`python -m lemonade_serve.devices.probe openvino npu`" in finding.advice

    def test_the_command_that_shows_all_is_the_one_that_was_run(self) -> None:
        provider = ExecutionProvider(
            name="vitisai", hardware="npu", library="/opt/a b.so", options=(("log", "1"),)
        )
        finding = check_device(Device.NPU, provider, ProbeFailed("it broke"), [node()])
        command = "devices.probe vitisai npu '--library=/opt/a b.so' --option=log=1`"
        assert command in finding.advice


def test_each_device_has_its_own_probe() -> None:
    providers = {
        Device.NPU: ExecutionProvider(name="openvino", hardware="npu"),
        Device.IGPU: ExecutionProvider(name="openvino", hardware="gpu"),
        Device.CPU: ExecutionProvider(name="cpu", hardware="cpu"),
    }
    probed = {Device.NPU: ProbeFailed("it hung"), Device.IGPU: probe(GPU)}
    findings = check_devices(providers, probed, [])
    assert [finding.level for finding in findings.values()] == [Level.FAIL, Level.OK, Level.OK]


GPU = Seen(provider="OpenVINOExecutionProvider", kind="gpu", vendor="Intel")
