"""What an execution provider finds on this machine, asked of a process of its own: a library that
crashes or hangs takes nobody along."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from lemonade_serve.domain.device import Device, ExecutionProvider
from lemonade_serve.settings import Devices

CPU = "cpu"
PROBE = (sys.executable, "-P", "-m", "lemonade_serve.devices.probe")
_HARDWARE = {Device.NPU: "npu", Device.IGPU: "gpu", Device.CPU: CPU}
"""What ONNX Runtime calls them."""
_REAP_S = 1.0
"""A process inside a driver may outlive its kill; it is not waited for longer."""
_ANSWER_BYTES, _WORDS_BYTES, _PIECE_BYTES = 2**20, 1000, 2**16
"""A library may say the same without end: this much of it is kept, and read at once."""
_SUFFIX = "executionprovider"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A device as an execution provider sees it: `kind` is `cpu`, `gpu` or `npu`; `name` is empty
    where the provider says none."""

    provider: str
    kind: str
    vendor: str
    name: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What ONNX Runtime has built in, what came of the execution provider that was asked for, and
    all devices that are seen.

    `library`: of the plugin; None where it is built in, or nowhere. `library_error`: why that does
    not load. `session_error`: why its device runs nothing. `drivers_missing`: shared libraries of
    drivers that the provider looks for, and that are not here.
    """

    onnxruntime: str
    onnxruntime_genai: str
    built_in: tuple[str, ...]
    devices: tuple[Seen, ...]
    library: str | None = None
    library_error: str = ""
    session_error: str = ""
    drivers_missing: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether the execution provider is here, whatever it finds."""
        built_in = any(same(name, own) for own in self.built_in)
        return self.library is not None or built_in

    def seen_by(self, name: str) -> Sequence[Seen]:
        return [device for device in self.devices if same(name, device.provider)]


class ProbeFailed(msgspec.Struct, frozen=True):
    """There is no answer, and why."""

    reason: str


Probed = Probe | ProbeFailed


def execution_providers(devices: Devices) -> Mapping[Device, ExecutionProvider]:
    """What the settings say of the devices that they offer."""
    return {
        device: ExecutionProvider(name=CPU, hardware=CPU)
        if same(own.execution_provider, CPU)
        else ExecutionProvider(
            name=own.execution_provider,
            hardware=own.hardware or _HARDWARE[device],
            library=own.library or None,
            options=tuple(own.provider_options.items()),
        )
        for device in Device
        if (own := getattr(devices, device.value)).execution_provider
    }


async def probe(
    provider: ExecutionProvider, *, timeout_s: float, command: Sequence[str] = PROBE
) -> Probed:
    """Takes a second or so, and never longer than `timeout_s`. Never raises for what the process
    does; leaves none, unless the kernel does not let it go."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments(provider),
            f"--parent={os.getpid()}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return ProbeFailed(f"it did not start: {error}")
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint, _ = await asyncio.gather(
                _last(process.stdout, _ANSWER_BYTES),
                _last(process.stderr, _WORDS_BYTES),
                process.wait(),
            )
    except TimeoutError:
        return ProbeFailed(f"it did not answer within {timeout_s:g} s")
    finally:
        await _end(process)
    if process.returncode:
        return ProbeFailed(_last_words(process.returncode, complaint))
    try:
        return msgspec.json.decode(output, type=Probe)
    except msgspec.DecodeError as error:
        return ProbeFailed(f"it answered nonsense: {error}")


def arguments(provider: ExecutionProvider) -> Sequence[str]:
    """What the probe process is told of it."""
    library = [f"--library={provider.library}"] if provider.library else []
    options = [f"--option={name}={value}" for name, value in provider.options]
    return [provider.name, provider.hardware, *library, *options]


def same(one: str, other: str) -> bool:
    """`cpu` and `CPUExecutionProvider` are the same provider."""
    return short(one) == short(other)


def short(provider: str) -> str:
    return provider.lower().removesuffix(_SUFFIX)


async def _last(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """The last bytes that come."""
    kept = b""
    while stream and (piece := await stream.read(_PIECE_BYTES)):
        kept = (kept + piece)[-most:]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _REAP_S)


def _last_words(status: int, complaint: bytes) -> str:
    *_, last = complaint.decode(errors="replace").strip().splitlines() or [""]
    how = f"it was killed by {_signal(-status)}" if status < 0 else f"it ended with {status}"
    return f"{how}: {last}" if last else how


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return f"signal {number}"
