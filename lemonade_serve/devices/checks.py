"""From what was read of the machine to findings. Nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator

from lemonade_serve.devices.cpus import Cpus
from lemonade_serve.devices.finding import Finding, Level, gib
from lemonade_serve.devices.memory import Memory
from lemonade_serve.devices.nodes import Node
from lemonade_serve.devices.obstacles import of_node
from lemonade_serve.devices.providers import Probed, ProbeFailed, short
from lemonade_serve.domain.device import Budgets


def check_memory(memory: Memory) -> Finding:
    limit = (
        f"control groups allow {gib(memory.cgroup_bytes)}" if memory.cgroup_bytes else "no limit"
    )
    return Finding(Level.OK, "memory", f"{gib(memory.host_bytes)}, {limit}")


def check_budgets(budgets: Budgets, memory: Memory) -> Iterator[Finding]:
    for device, budget in budgets.items():
        room = f"{gib(budget.memory_bytes)} for at most {budget.max_models} models"
        yield Finding(
            Level.OK, f"devices.{device.value}", f"{room}, by {budget.execution_provider}"
        )
    total = sum(budget.memory_bytes for budget in budgets.values())
    if total > memory.usable_bytes:
        yield Finding(
            Level.WARN,
            "memory",
            f"the devices' budgets, {gib(total)}, are more than the {gib(memory.usable_bytes)} "
            "that this process may use",
            "lower devices.*.memory_budget, or the kernel will end workers",
        )


def check_cpus(cpus: Cpus, threads: int) -> Finding:
    """`threads`: what the settings say, 0 for as many as there are."""
    quota = "no quota" if cpus.quota is None else f"a quota of {cpus.quota:g}"
    said = f"{cpus.usable} to compute with ({cpus.affinity} by affinity, {quota})"
    if threads > cpus.usable:
        return Finding(
            Level.WARN,
            "cpus",
            f"{said}, and worker.threads is {threads}",
            "set worker.threads to 0: threads without a CPU make all others wait",
        )
    return Finding(Level.OK, "cpus", said)


def check_onnxruntime(probed: Probed) -> Finding:
    """`probed`: of the CPU."""
    if isinstance(probed, ProbeFailed):
        return Finding(
            Level.FAIL,
            "onnxruntime",
            f"the probe found nothing: {probed.reason}",
            "`python -m lemonade_serve.devices.probe cpu cpu` shows all that it says",
        )
    names = ", ".join(map(short, probed.built_in))
    said = f"{probed.onnxruntime} (genai {probed.onnxruntime_genai}) with {names} built in"
    return Finding(Level.OK, "onnxruntime", said)


def check_node(node: Node) -> Finding:
    """Whether it is needed or not."""
    vendor = f", of {node.vendor}" if node.vendor else ""
    if obstacle := of_node(node):
        return Finding(Level.WARN, "device files", *obstacle)
    return Finding(Level.OK, "device files", f"{node.path} may be opened{vendor}")
