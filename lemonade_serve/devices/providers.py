"""What ONNX Runtime finds on this machine, asked of a process of its own: a driver that crashes
or hangs takes nobody along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec

PROBE = (sys.executable, "-P", "-m", "lemonade_serve.devices.probe")
_REAP_S = 1.0
"""A process inside a driver may outlive its kill; it is not waited for longer."""
_SUFFIX = "executionprovider"


class ProviderDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device as an execution provider sees it: `kind` is `cpu`, `gpu` or `npu`."""

    provider: str
    kind: str
    vendor: str
    metadata: dict[str, str]


class Providers(msgspec.Struct, frozen=True, kw_only=True):
    """Versions, the execution providers that this build has, and the devices that they see."""

    onnxruntime: str
    onnxruntime_genai: str
    available: tuple[str, ...]
    devices: tuple[ProviderDevice, ...]

    def has(self, name: str) -> bool:
        return any(same(name, own) for own in self.available) or bool(self.seen_by(name))

    def seen_by(self, name: str) -> Sequence[ProviderDevice]:
        return [device for device in self.devices if same(name, device.provider)]


class ProbeFailed(msgspec.Struct, frozen=True):
    """There is no answer, and why."""

    reason: str


def probe_providers(
    *, timeout_s: float = 30.0, command: Sequence[str] = PROBE
) -> Providers | ProbeFailed:
    """Blocks for a second or so, and never longer than `timeout_s`. Never raises for what the
    probe does."""
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        return ProbeFailed(f"it did not start: {error}")
    try:
        output, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return ProbeFailed(f"it did not answer within {timeout_s:g} s")
    finally:
        _end(process)
    if process.returncode != 0:
        return ProbeFailed(_last_words(process.returncode, complaint))
    try:
        return msgspec.json.decode(output, type=Providers)
    except msgspec.DecodeError as error:
        return ProbeFailed(f"it answered nonsense: {error}")


def same(one: str, other: str) -> bool:
    """`cpu` and `CPUExecutionProvider` are the same provider."""
    return short(one) == short(other)


def short(provider: str) -> str:
    return provider.lower().removesuffix(_SUFFIX)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_REAP_S)


def _last_words(status: int, complaint: bytes) -> str:
    how = f"it was killed by signal {-status}" if status < 0 else f"it ended with {status}"
    *_, last = complaint.decode(errors="replace").strip().splitlines() or [""]
    return f"{how}: {last}" if last else how
