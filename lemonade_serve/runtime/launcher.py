"""Starts workers: a process, a handshake, a load, each with its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.protocol.messages import Load, LoadFailed, Ready
from lemonade_serve.runtime.child import Child, ChildError
from lemonade_serve.runtime.client import WorkerClient
from lemonade_serve.settings import Worker as WorkerSettings


class ProcessLauncher:
    """The `Launcher` (domain/ports.py) of real processes."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        threads: int,
        execution_providers: Mapping[Device, str],
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._execution_providers = execution_providers

    async def launch(self, info: CheckpointInfo, device: Device) -> WorkerClient:
        settings = self._settings
        try:
            child = await Child.start(
                "lemonade_serve.worker", handshake_timeout_s=settings.handshake_timeout_s
            )
        except (ChildError, OSError) as error:
            raise errors.ModelLoadError(f"no worker for {info.name}: {error}") from error
        try:
            async with asyncio.timeout(settings.load_timeout_s):
                ready = await self._load(child, info, device)
        except TimeoutError:
            await child.kill()
            raise errors.ModelLoadError(
                f"{info.name} did not load within {settings.load_timeout_s:g} s"
            ) from None
        except BaseException:
            await child.kill()
            raise
        return WorkerClient(child, ready, stop_timeout_s=settings.stop_timeout_s)

    async def _load(self, child: Child, info: CheckpointInfo, device: Device) -> Ready:
        settings = self._settings
        child.send(
            Load(
                path=str(info.path),
                execution_provider=self._execution_providers[device],
                threads=self._threads,
                sequence_slots=settings.sequence_slots,
                idle_sequences=settings.idle_sequences,
                prefill_chunk_tokens=settings.prefill_chunk_tokens,
            )
        )
        match await child.receive():
            case Ready() as ready:
                return ready
            case LoadFailed(code, message):
                raise errors.from_code(code, f"{info.name}: {message}")
            case None:
                raise errors.ModelLoadError(
                    f"{info.name}: the worker died while loading: {await child.reap()}"
                )
            case other:
                raise errors.ModelLoadError(f"{info.name}: the worker sent {type(other).__name__}")
