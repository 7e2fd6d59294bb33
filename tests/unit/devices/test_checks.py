"""What is said of a machine, and what to do about it."""

from __future__ import annotations

import errno

import pytest

from lemonade_serve.devices.checks import (
    check_budgets,
    check_cpus,
    check_memory,
    check_node,
    check_onnxruntime,
)
from lemonade_serve.devices.cpus import Cpus
from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.devices.memory import Memory
from lemonade_serve.devices.nodes import Node
from lemonade_serve.devices.providers import Probe, ProbeFailed
from lemonade_serve.domain.device import Device, DeviceBudget

GIB = 2**30


def budget(memory: int = GIB) -> DeviceBudget:
    return DeviceBudget(execution_provider="cpu", max_models=4, memory_bytes=memory)


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


class TestOnnxRuntime:
    def test_it_says_what_it_is(self) -> None:
        probe = Probe(
            onnxruntime="1.0",
            onnxruntime_genai="0.1",
            built_in=("AzureExecutionProvider", "CPUExecutionProvider"),
            devices=(),
        )
        said = "1.0 (genai 0.1) with azure, cpu built in"
        assert check_onnxruntime(probe) == Finding(Level.OK, "onnxruntime", said)

    def test_a_probe_that_failed_is_a_failure_with_its_reason(self) -> None:
        finding = check_onnxruntime(ProbeFailed("it was killed by signal 11 (SIGSEGV)"))
        assert finding.level is Level.FAIL
        assert "signal 11" in finding.said
        assert "lemonade_serve.devices.probe cpu cpu" in finding.advice


class TestNodes:
    @pytest.mark.parametrize(("vendor", "made_by"), [("Intel", ", of Intel"), ("", "")])
    def test_one_that_opens_is_fine(self, vendor: str, made_by: str) -> None:
        node = Node(
            path="/dev/accel/accel0", kind="npu", gid=0, group="root", error=0, vendor=vendor
        )
        said = f"/dev/accel/accel0 may be opened{made_by}"
        assert check_node(node) == Finding(Level.OK, "device files", said)

    def test_one_that_does_not_is_worth_a_look(self) -> None:
        node = Node(path="/dev/x", kind="npu", gid=992, group=None, error=errno.EACCES)
        finding = check_node(node)
        assert (finding.level, "--group-add 992" in finding.advice) == (Level.WARN, True)
