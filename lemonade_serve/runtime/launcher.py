"""Starts workers: a process, a handshake, a load, each with its deadline."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from io import FileIO
from typing import Self

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device, ExecutionProvider
from lemonade_serve.domain.events import BatchDecoded
from lemonade_serve.domain.ports import Observer
from lemonade_serve.protocol.messages import Load, LoadFailed, Ready
from lemonade_serve.runtime.child import Child, ChildError
from lemonade_serve.runtime.client import WorkerClient
from lemonade_serve.runtime.lanes import Lanes
from lemonade_serve.settings import Worker as WorkerSettings


class ProcessLauncher:
    """The `Launcher` (domain/ports.py) of real processes.

    Its workers share a file in memory, the turnstile, of which they lock bytes: those of its lane
    are a worker's turn to compute (runtime/lanes.py). The kernel takes a dead worker's locks away.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        threads: int,
        lanes: Lanes,
        execution_providers: Mapping[Device, ExecutionProvider],
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._lanes = lanes
        self._execution_providers = execution_providers
        self._observer = observer
        self._turnstile = FileIO(os.memfd_create("turnstile", os.MFD_CLOEXEC), "r+")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Start no more workers; those that there are go on."""
        self._turnstile.close()

    async def launch(self, info: CheckpointInfo, device: Device) -> WorkerClient:
        lane = self._lanes.enter(device)
        try:
            worker = await self._launch(info, device, lane)
        except BaseException:
            self._lanes.leave(lane)
            raise
        worker.exited.add_done_callback(lambda _: self._lanes.leave(lane))
        return worker

    async def _launch(self, info: CheckpointInfo, device: Device, lane: int) -> WorkerClient:
        settings, turnstile = self._settings, self._turnstile.fileno()
        try:
            child = await Child.start(
                "lemonade_serve.worker",
                handshake_timeout_s=settings.handshake_timeout_s,
                arguments=(str(turnstile), str(lane)),
                inherited=(turnstile,),
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

        def decoded(sequences: int) -> None:
            self._observer.observe(
                BatchDecoded(
                    model=info.name, device=device.value, dtype=info.dtype, sequences=sequences
                )
            )

        return WorkerClient(child, ready, stop_timeout_s=settings.stop_timeout_s, decoded=decoded)

    async def _load(self, child: Child, info: CheckpointInfo, device: Device) -> Ready:
        settings, provider = self._settings, self._execution_providers[device]
        child.send(
            Load(
                path=str(info.path),
                execution_provider=provider.name,
                threads=self._threads,
                sequence_slots=settings.sequence_slots,
                kv_cache_tokens=info.kv_tokens(
                    at_most=settings.kv_cache_tokens, sequences=settings.sequence_slots
                ),
                prefill_chunk_tokens=settings.prefill_chunk_tokens,
                turn_timeout_s=settings.turn_timeout_s,
                guidance_timeout_s=settings.guidance_timeout_s,
                engine=settings.engine,
                library=provider.library,
                provider_options=provider.options,
                hardware=provider.hardware,
                encoder=info.encoder,
                encode_batch_tokens=settings.encode_batch_tokens,
                encode_input_tokens=settings.encode_input_tokens,
                max_adapter_bytes=settings.max_adapter_bytes,
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
