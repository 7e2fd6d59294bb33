"""What keeps a device from serving, in words, and what to do about it. Nothing is read here."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.devices.nodes import PATTERNS, Node
from lemonade_serve.devices.providers import CPU, Probe, Probed, ProbeFailed, arguments, same, short
from lemonade_serve.domain.device import Device, ExecutionProvider

_EXTRAS = ("openvino", "webgpu")
"""What this package and its images have as extras and targets of the same name."""
_DRIVERS = {
    (
        "openvino",
        "npu",
    ): "Intel's NPU driver (libze1, intel-level-zero-npu, intel-driver-compiler-npu)",
    ("openvino", "gpu"): "Intel's compute runtime (ocl-icd-libopencl1, intel-opencl-icd)",
    ("webgpu", "gpu"): "the Vulkan driver (libvulkan1, mesa-vulkan-drivers)",
}
"""What reaches the hardware from a program's side, and Debian's or the vendor's names for it."""
_KERNEL = {"npu": "intel_vpu or amdxdna", "gpu": "i915, xe or amdgpu"}
_NOT_FOUND = re.compile(r"(?P<library>[^\s:]+\.so[^\s:]*): cannot open shared object file")


class Obstacle(NamedTuple):
    said: str
    advice: str


def check_device(
    device: Device, provider: ExecutionProvider, probed: Probed | None, nodes: Sequence[Node]
) -> Finding:
    """One line of a device: what it serves with, or all that keeps it from serving.

    `probed` is None for what needs no probe, the CPU.
    """
    subject = f"devices.{device.value}"
    if same(provider.name, CPU):
        stands_in = "" if device is Device.CPU else ", which stands in for it"
        return Finding(Level.OK, subject, f"runs on the CPU{stands_in}")
    if isinstance(probed, Probe) and (found := _served(provider, probed)):
        return Finding(Level.OK, subject, found)
    obstacles = [*_of_nodes(provider, nodes), *_of_probe(device, provider, probed, nodes)]
    said = "; ".join(obstacle.said for obstacle in obstacles)
    advice = "; ".join(dict.fromkeys(obstacle.advice for obstacle in obstacles))
    return Finding(Level.FAIL, subject, said, advice)


def check_devices(
    providers: Mapping[Device, ExecutionProvider],
    probed: Mapping[Device, Probed],
    nodes: Sequence[Node],
) -> Mapping[Device, Finding]:
    """A line each."""
    return {
        device: check_device(device, provider, probed.get(device), nodes)
        for device, provider in providers.items()
    }


def of_node(node: Node) -> Obstacle | None:
    """What keeps this process from opening it."""
    path = node.path
    if node.error == 0:
        return None
    if node.error == errno.EACCES:
        group = f"{node.group or 'without a name here'} (gid {node.gid})"
        return Obstacle(
            f"{path} may not be opened: it belongs to the group {group}",
            f"add yourself to it (usermod -aG {node.group or node.gid} USER) and log in again; "
            f"in a container: --group-add {node.gid}",
        )
    if node.error == errno.EPERM:
        return Obstacle(
            f"{path} may not be opened: this container was not given it",
            f"start the container with --device {path}",
        )
    return Obstacle(
        f"{path} does not open: {os.strerror(node.error)}", "dmesg says what its driver does"
    )


def _served(provider: ExecutionProvider, probe: Probe) -> str | None:
    seen = [one for one in probe.seen_by(provider.name) if one.kind == provider.hardware]
    if not seen or probe.session_error:
        return None
    name = f" ({seen[0].name})" if seen[0].name else ""
    return f"{provider.name} runs on a {provider.hardware} of {seen[0].vendor or 'no name'}{name}"


def _of_nodes(provider: ExecutionProvider, nodes: Sequence[Node]) -> Iterator[Obstacle]:
    """Nothing, if one of them opens."""
    if provider.hardware not in PATTERNS:
        return
    own = [node for node in nodes if node.kind == provider.hardware]
    closed = [obstacle for node in own if (obstacle := of_node(node))]
    if not own:
        yield Obstacle(
            f"there is no /{PATTERNS[provider.hardware]}",
            f"load its driver ({_KERNEL[provider.hardware]}); in a container, pass the file with "
            "--device: `lemonade-serve doctor --docker` on the host prints how",
        )
    elif len(closed) == len(own):
        yield from closed


def _of_probe(
    device: Device, provider: ExecutionProvider, probed: Probed | None, nodes: Sequence[Node]
) -> Iterator[Obstacle]:
    name, hardware = provider.name, provider.hardware
    if not isinstance(probed, Probe):
        reason = probed.reason if isinstance(probed, ProbeFailed) else "it was not asked"
        yield Obstacle(
            f"the probe of {name} found nothing: {reason}",
            "its library or its driver is at fault: dmesg, and `python -m "
            f"lemonade_serve.devices.probe {shlex.join(arguments(provider))}`, show all that they "
            "say",
        )
    elif not probed.has(name):
        yield Obstacle(
            f"the execution provider {name} is not installed", _how_to_install(device, name)
        )
    elif probed.library_error:
        yield _of_library(probed)
    elif probed.session_error:
        yield Obstacle(
            f"{name} sees a {hardware}, and does not run on it: {probed.session_error}",
            f"update {_driver(name, hardware)}",
        )
    else:
        opens = [node.path for node in nodes if node.kind == hardware and not node.error]
        yield from _of_driver(provider, probed, opens)


def _of_library(probe: Probe) -> Obstacle:
    """It is there, and does not load."""
    if found := _NOT_FOUND.search(probe.library_error):
        library = found["library"]
        advice = (
            f"correct the setting, or install it: there is no {library}"
            if library == probe.library
            else f"install the package that has {library}; ldd {probe.library} lists all it needs"
        )
    else:
        advice = "is it for this version of onnxruntime? Install the two that fit"
    return Obstacle(f"its library does not load: {probe.library_error}", advice)


def _of_driver(
    provider: ExecutionProvider, probe: Probe, opens: Sequence[str]
) -> Iterator[Obstacle]:
    """The library loads, and sees nothing; the device files `opens` may be opened."""
    name, hardware = provider.name, provider.hardware
    others = sorted({seen.kind for seen in probe.seen_by(name)})
    only = f", but a {' and a '.join(others)}" if others else ""
    although = f", although {opens[0]} opens" if opens else ""
    if probe.drivers_missing:
        advice = f"install {_driver(name, hardware)}"
        if short(name) in _EXTRAS:
            advice += f", or use the image lemonade-serve:{short(name)}"
        missing = ", ".join(probe.drivers_missing)
        yield Obstacle(
            f"{name} sees no {hardware}{only}{although}: {missing} is not installed", advice
        )
    elif opens or hardware not in PATTERNS:
        yield Obstacle(
            f"{name} sees no {hardware}{only}{although}: its driver is not here, too old, or not "
            "for it",
            f"install or update {_driver(name, hardware)}",
        )


def _driver(name: str, hardware: str) -> str:
    return _DRIVERS.get((short(name), hardware), "the driver")


def _how_to_install(device: Device, name: str) -> str:
    own = short(name)
    if own in _EXTRAS:
        return f"pip install 'lemonade-serve[{own}]', or use the image lemonade-serve:{own}"
    return (
        f"set devices.{device.value}.library to its shared library, or install the package "
        f"onnxruntime-ep-{own}"
    )
