"""From what was read of the machine to findings. Nothing is read here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from lemonade_serve.devices.cpus import Cpus
from lemonade_serve.devices.finding import Finding, Level, gib
from lemonade_serve.devices.memory import Memory
from lemonade_serve.devices.nodes import PATTERNS, Node
from lemonade_serve.devices.providers import ProbeFailed, Providers, same, short
from lemonade_serve.domain.device import Budgets, Device

_CPU = "cpu"
_KINDS = {Device.NPU: "npu", Device.IGPU: "gpu", Device.CPU: "cpu"}
"""What ONNX Runtime calls them."""


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


def check_providers(found: Providers | ProbeFailed, budgets: Budgets) -> Iterator[Finding]:
    if isinstance(found, ProbeFailed):
        yield Finding(
            Level.FAIL,
            "onnxruntime",
            f"the probe found nothing: {found.reason}",
            "`python -m lemonade_serve.devices.probe` shows all that it says",
        )
        return
    names = ", ".join(map(short, found.available))
    yield Finding(
        Level.OK,
        "onnxruntime",
        f"{found.onnxruntime} (genai {found.onnxruntime_genai}) with {names}",
    )
    for seen in found.devices:
        vendor = seen.vendor or "an unknown vendor"
        yield Finding(
            Level.OK, "onnxruntime", f"{short(seen.provider)} sees a {seen.kind} of {vendor}"
        )
    for device, budget in budgets.items():
        yield _check_provider(found, device, budget.execution_provider)


def _check_provider(found: Providers, device: Device, provider: str) -> Finding:
    subject = f"devices.{device.value}"
    if not found.has(provider):
        return Finding(
            Level.FAIL,
            subject,
            f"this onnxruntime has no execution provider {provider}",
            f'install one that has it, or set {subject}.execution_provider to "{_CPU}"',
        )
    if same(provider, _CPU):
        stands_in = "" if device is Device.CPU else ", which stands in for it"
        return Finding(Level.OK, subject, f"runs on the CPU{stands_in}")
    if not any(seen.kind == _KINDS[device] for seen in found.seen_by(provider)):
        return Finding(
            Level.WARN,
            subject,
            f"{provider} is there, but reports no {_KINDS[device]}",
            "look at the device files and at the driver's messages",
        )
    return Finding(Level.OK, subject, f"{provider} sees it")


def check_nodes(nodes: Sequence[Node], budgets: Budgets) -> Iterator[Finding]:
    wanted = [d for d, budget in budgets.items() if not same(budget.execution_provider, _CPU)]
    for node in nodes:
        yield _check_node(node, Level.FAIL if node.device in wanted else Level.WARN)
    missing = [d for d in wanted if d in PATTERNS and d not in {node.device for node in nodes}]
    for device in missing:
        yield Finding(
            Level.WARN,
            f"devices.{device.value}",
            f"there is no /{PATTERNS[device]}",
            "load its driver; in a container, pass the file with --device",
        )
    if not nodes and not missing:
        yield Finding(Level.OK, "device files", "none, and none is needed")


def _check_node(node: Node, level: Level) -> Finding:
    group = f"{node.group or 'without a name here'} (gid {node.gid})"
    if node.error == 0:
        return Finding(Level.OK, "device files", f"{node.path} may be opened")
    if node.error == errno.EACCES:
        return Finding(
            level,
            "device files",
            f"{node.path} may not be opened: it belongs to the group {group}",
            f"add yourself to it (usermod -aG {node.group or node.gid} USER) and log in again; "
            f"in a container: --group-add {node.gid}",
        )
    if node.error == errno.EPERM:
        return Finding(
            level,
            "device files",
            f"{node.path} may not be opened: this container was not given it",
            f"start the container with --device {node.path}",
        )
    reason = os.strerror(node.error)
    return Finding(level, "device files", f"{node.path} does not open: {reason}", "see dmesg")
