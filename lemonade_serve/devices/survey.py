"""Looks at the devices that the settings offer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.devices.nodes import read_nodes
from lemonade_serve.devices.obstacles import check_devices
from lemonade_serve.devices.providers import (
    CPU,
    PROBE,
    Probe,
    Probed,
    execution_providers,
    probe,
    same,
)
from lemonade_serve.domain.device import Device, ExecutionProvider, Unusable
from lemonade_serve.settings import Devices


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """`providers` have their libraries; `findings` are a line for each device."""

    providers: Mapping[Device, ExecutionProvider]
    findings: Mapping[Device, Finding]

    @property
    def unusable(self) -> Mapping[Device, Unusable]:
        return {
            device: Unusable(
                execution_provider=self.providers[device].name,
                reason=finding.said,
                advice=finding.advice,
            )
            for device, finding in self.findings.items()
            if finding.level is Level.FAIL
        }


async def survey(
    devices: Devices, *, root: Path = Path("/"), command: Sequence[str] = PROBE
) -> Survey:
    """All probes at the same time, within `devices.probe_timeout_s`; none for what is on the CPU.
    `root` is where the device files are."""
    providers = execution_providers(devices)
    asked = {device: own for device, own in providers.items() if not same(own.name, CPU)}
    answers = await asyncio.gather(
        *(probe(own, timeout_s=devices.probe_timeout_s, command=command) for own in asked.values())
    )
    probed = dict(zip(asked, answers, strict=True))
    nodes = read_nodes(root) if asked else []
    return Survey(
        providers={
            device: _with_library(own, probed.get(device)) for device, own in providers.items()
        },
        findings=check_devices(providers, probed, nodes),
    )


def _with_library(provider: ExecutionProvider, probed: Probed | None) -> ExecutionProvider:
    """The worker is told where the probe has found it."""
    if not isinstance(probed, Probe):
        return provider
    return msgspec.structs.replace(provider, library=probed.library)
