"""What is said of a machine, and what to do about it."""

from __future__ import annotations

import errno

import pytest

from lemonade_serve.devices.checks import (
    check_budgets,
    check_cpus,
    check_memory,
    check_nodes,
    check_providers,
)
from lemonade_serve.devices.cpus import Cpus
from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.devices.memory import Memory
from lemonade_serve.devices.nodes import Node
from lemonade_serve.devices.providers import ProbeFailed, ProviderDevice, Providers
from lemonade_serve.domain.device import Device, DeviceBudget

GIB = 2**30


def budget(provider: str = "cpu", memory: int = GIB) -> DeviceBudget:
    return DeviceBudget(execution_provider=provider, max_models=4, memory_bytes=memory)


def found(*available: str, devices: tuple[ProviderDevice, ...] = ()) -> Providers:
    return Providers(
        onnxruntime="1.0", onnxruntime_genai="0.1", available=available, devices=devices
    )


def seen(provider: str, kind: str) -> ProviderDevice:
    return ProviderDevice(provider=provider, kind=kind, vendor="Intel", metadata={})


def node(error: int, *, group: str | None = "render", device: Device = Device.NPU) -> Node:
    return Node(path="/dev/accel/accel0", device=device, gid=992, group=group, error=error)


class TestMemory:
    def test_the_machine_and_its_groups_are_told_apart(self) -> None:
        assert check_memory(Memory(host_bytes=16 * GIB)).said == "16.0 GiB, no limit"
        limited = check_memory(Memory(host_bytes=16 * GIB, cgroup_bytes=3 * GIB))
        assert limited.said == "16.0 GiB, control groups allow 3.0 GiB"

    def test_each_device_has_its_budget(self) -> None:
        (finding,) = check_budgets({Device.CPU: budget()}, Memory(host_bytes=16 * GIB))
        assert finding == Finding(Level.OK, "devices.cpu", "1.0 GiB for at most 4 models, by cpu")

    def test_budgets_over_what_there_is_are_a_warning(self) -> None:
        budgets = {Device.NPU: budget(memory=2 * GIB), Device.CPU: budget(memory=2 * GIB)}
        enough = Memory(host_bytes=16 * GIB, cgroup_bytes=4 * GIB)
        assert {f.level for f in check_budgets(budgets, enough)} == {Level.OK}
        *_, last = check_budgets(budgets, Memory(host_bytes=16 * GIB, cgroup_bytes=4 * GIB - 1))
        assert (last.level, "memory_budget" in last.advice) == (Level.WARN, True)


class TestCpus:
    def test_a_quota_is_told(self) -> None:
        finding = check_cpus(Cpus(affinity=4, quota=2.5), 0)
        assert finding.level is Level.OK
        assert finding.said == "2 to compute with (4 by affinity, a quota of 2.5)"

    def test_more_threads_than_cpus_are_a_warning(self) -> None:
        assert check_cpus(Cpus(affinity=4), 4).level is Level.OK
        assert check_cpus(Cpus(affinity=4), 5).level is Level.WARN


class TestProviders:
    def check(self, providers: Providers | ProbeFailed, **budgets: DeviceBudget) -> list[Finding]:
        offered = {Device(name): budget for name, budget in budgets.items()}
        return list(check_providers(providers, offered))

    def test_a_probe_that_failed_is_a_failure_with_its_reason(self) -> None:
        (finding,) = self.check(ProbeFailed("it was killed by signal 11"), cpu=budget())
        assert finding.level is Level.FAIL
        assert "signal 11" in finding.said
        assert "lemonade_serve.devices.probe" in finding.advice

    def test_what_there_is_comes_first(self) -> None:
        cpu = seen("CPUExecutionProvider", "cpu")
        version, hardware, device = self.check(
            found("CPUExecutionProvider", devices=(cpu,)), cpu=budget()
        )
        assert version.said == "1.0 (genai 0.1) with cpu"
        assert hardware.said == "cpu sees a cpu of Intel"
        assert device == Finding(Level.OK, "devices.cpu", "runs on the CPU")

    def test_the_cpu_may_stand_in(self) -> None:
        *_, device = self.check(found("CPUExecutionProvider"), npu=budget("cpu"))
        assert (device.level, device.said) == (
            Level.OK,
            "runs on the CPU, which stands in for it",
        )

    def test_a_provider_that_is_not_there_is_a_failure(self) -> None:
        *_, device = self.check(found("CPUExecutionProvider"), npu=budget("openvino"))
        assert device == Finding(
            Level.FAIL,
            "devices.npu",
            "this onnxruntime has no execution provider openvino",
            'install one that has it, or set devices.npu.execution_provider to "cpu"',
        )

    def test_a_provider_without_its_device_is_a_warning(self) -> None:
        gpu = seen("OpenVINOExecutionProvider", "gpu")
        *_, device = self.check(
            found("OpenVINOExecutionProvider", devices=(gpu,)), npu=budget("openvino")
        )
        assert (device.level, device.said) == (
            Level.WARN,
            "openvino is there, but reports no npu",
        )

    def test_a_provider_that_was_registered_sees_its_device(self) -> None:
        gpu = seen("OpenVINOExecutionProvider", "gpu")
        *_, device = self.check(
            found("CPUExecutionProvider", devices=(gpu,)), igpu=budget("openvino")
        )
        assert (device.level, device.said) == (Level.OK, "openvino sees it")


class TestNodes:
    def check(self, *nodes: Node, npu: str = "cpu") -> list[Finding]:
        return list(check_nodes(nodes, {Device.NPU: budget(npu)}))

    def test_none_are_needed_on_the_cpu(self) -> None:
        assert self.check() == [Finding(Level.OK, "device files", "none, and none is needed")]

    def test_one_that_opens_is_fine(self) -> None:
        (finding,) = self.check(node(0), npu="openvino")
        assert finding == Finding(Level.OK, "device files", "/dev/accel/accel0 may be opened")

    @pytest.mark.parametrize(("npu", "level"), [("openvino", Level.FAIL), ("cpu", Level.WARN)])
    def test_one_of_another_group_says_which_to_join(self, npu: str, level: Level) -> None:
        (finding,) = self.check(node(errno.EACCES), npu=npu)
        assert finding.level is level
        assert "the group render (gid 992)" in finding.said
        assert "usermod -aG render" in finding.advice
        assert "--group-add 992" in finding.advice

    def test_a_group_may_have_no_name_here(self) -> None:
        (finding,) = self.check(node(errno.EACCES, group=None), npu="openvino")
        assert "gid 992" in finding.said
        assert "usermod -aG 992" in finding.advice

    def test_one_that_the_container_was_not_given_says_how_to_give_it(self) -> None:
        (finding,) = self.check(node(errno.EPERM), npu="openvino")
        assert finding.advice == "start the container with --device /dev/accel/accel0"

    def test_one_without_a_driver_behind_it_says_so(self) -> None:
        (finding,) = self.check(node(errno.ENXIO), npu="openvino")
        assert "No such device" in finding.said

    def test_one_that_is_missing_where_it_is_wanted_is_a_warning(self) -> None:
        (finding,) = self.check(npu="openvino")
        assert (finding.level, finding.subject) == (Level.WARN, "devices.npu")
        assert finding.said == "there is no /dev/accel/accel*"
