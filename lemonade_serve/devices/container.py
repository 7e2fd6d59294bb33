"""What a container must be given to reach this machine's devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from lemonade_serve.devices.nodes import Node

_MARKS = (".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io")
_SETTING = "LEMONADE_DEVICES__{}__EXECUTION_PROVIDER"
_IMAGE = "lemonade-serve"


class Passing(msgspec.Struct, frozen=True, kw_only=True):
    """`devices` are files, `groups` their numbers, since names differ in an image; `environment`
    the settings that use them, `image` the one that has the drivers. `notes` are for people."""

    devices: tuple[str, ...]
    groups: tuple[int, ...]
    ulimits: tuple[str, ...]
    environment: Mapping[str, str]
    image: str
    notes: tuple[str, ...]

    def flags(self) -> Iterator[str]:
        """For `docker run`, the image last."""
        for path in self.devices:
            yield from ("--device", path)
        for group in self.groups:
            yield from ("--group-add", str(group))
        for limit in self.ulimits:
            yield from ("--ulimit", f"{limit}=-1")
        for name, value in self.environment.items():
            yield from ("-e", f"{name}={value}")
        yield self.image

    def compose(self) -> str:
        """The same as an overlay for docker-compose.yml, where Compose builds an image that is not
        there, and the import runs in the same one."""
        _, _, target = self.image.partition(":")
        lines = ["services:", f'  import: {{image: "{self.image}"}}']
        lines += ["  lemonade:", f"    image: {self.image}", f"    build: {{target: {target}}}"]
        if self.devices:
            lines += ["    devices:", *(f"      - {path}:{path}" for path in self.devices)]
        if self.groups:
            lines += ["    group_add:", *(f'      - "{group}"' for group in self.groups)]
        if self.ulimits:
            lines += ["    ulimits:", *(f"      {limit}: -1" for limit in self.ulimits)]
        if self.environment:
            lines += ["    environment:"]
            lines += [f"      {name}: {value}" for name, value in self.environment.items()]
        return "\n".join(lines)


def is_container(root: Path = Path("/")) -> bool:
    """Whether this process is in one, by the marks that Docker, Podman and Kubernetes leave."""
    return any((root / mark).exists() for mark in _MARKS)


def pass_on(nodes: Sequence[Node]) -> Passing:
    """All devices that a container can use."""
    usable = [node for node in nodes if node.vendor != "NVIDIA"]
    providers = dict(filter(None, map(_provider, usable)))
    used = set(providers.values())
    target = next((name for name in ("openvino", "webgpu") if name in used), "cpu")
    return Passing(
        devices=tuple(node.path for node in usable),
        groups=tuple(sorted({node.gid for node in usable if not node.open_to_all})),
        ulimits=("memlock",) if any(map(_is_amd_npu, usable)) else (),
        environment={_SETTING.format(device): name for device, name in providers.items()},
        image=f"{_IMAGE}:{target}",
        notes=tuple(_notes(nodes, used)),
    )


def _provider(node: Node) -> tuple[str, str] | None:
    """The setting's device, and what it is run with."""
    if node.kind == "gpu":
        return "IGPU", "openvino" if node.vendor == "Intel" else "webgpu"
    return ("NPU", "openvino") if node.vendor == "Intel" else None


def _notes(nodes: Sequence[Node], used: set[str]) -> Iterator[str]:
    if not nodes:
        yield "There is no NPU and no GPU here, or the kernel has no driver for it: CPU only."
    if any(map(_is_amd_npu, nodes)):
        yield (
            "AMD's NPU needs the VitisAI plugin of AMD, which no image has: mount it, and set "
            f"{_SETTING.format('NPU')}=vitisai and LEMONADE_DEVICES__NPU__LIBRARY=its path."
        )
    for node in nodes:
        if node.vendor == "NVIDIA":
            yield f"{node.path} is left out: NVIDIA's GPUs need its own container toolkit."
        elif node.kind == "npu" and node.vendor not in ("Intel", "AMD"):
            yield f"{node.path} is of {node.vendor or 'nobody known'}: set what runs it."
    if len(used) > 1:
        yield "The image has OpenVINO alone: add onnxruntime-ep-webgpu and a Vulkan driver to it."


def _is_amd_npu(node: Node) -> bool:
    return node.kind == "npu" and node.vendor == "AMD"
