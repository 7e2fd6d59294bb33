"""What the domain needs of the world. The adapters stand outside and meet it in `app.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.events import Event
from lemonade_serve.protocol.messages import (
    Finished,
    ImportGguf,
    JobDone,
    Prompt,
    Ready,
    ResolvedParams,
    Started,
    Token,
)

Clock = Callable[[], float]
"""Seconds, on a clock that never goes back."""

Deliver = Callable[[Started | Token | Finished], None]
"""Takes an event at once; must not block or raise."""


class Worker(Protocol):
    """A process that has one checkpoint loaded."""

    pid: int
    ready: Ready
    exited: asyncio.Future[str]
    """Done, with the reason in words, as soon as the process is gone and reaped."""

    @property
    def memory_bytes(self) -> int:
        """Its resident size; 0 when it is gone."""

    async def generate(self, prompt: Prompt, params: ResolvedParams, deliver: Deliver) -> None:
        """One request, until it is finished. Its events are handed to `deliver` as they come:
        `Started`, then `Token` upon `Token`, then `Finished`.

        Cancelled, it cancels the request and does not wait for that. Raises what the worker said
        was wrong with the request, GenerationFailed, or WorkerLost if the process dies.
        """

    async def stop(self, cause: errors.LemonadeError) -> None:
        """End the process, and its running requests with `cause`. Returns when it is reaped."""


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, info: CheckpointInfo, device: Device) -> Worker:
        """A worker that is loaded and warm. Raises ModelLoadError; leaves no process then."""


class CheckpointCatalog(Protocol):
    """The checkpoints on disk. Its methods block: call them off the event loop."""

    def find(self, name: str, dtype: str, cache_dir: str | None) -> CheckpointInfo:
        """Raises ModelNotFound, DeviceUnavailable for a dtype that is not there, NotAllowed."""

    def list(self, cache_dir: str | None) -> Sequence[CheckpointInfo]:
        """All of them, by name. Raises NotAllowed for a directory outside the allowed roots."""


class Observer(Protocol):
    """Sees every event; must not block or raise."""

    def observe(self, event: Event) -> None: ...


class CheckpointShelf(Protocol):
    """Where a new checkpoint is made, and then put."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty directory, gone with all that is in it unless `publish` takes it."""

    def publish(self, staged: Path, name: str, dtype: str) -> Path:
        """Give it its place among the others, all at once; returns where that is."""


class JobRunner(Protocol):
    """Runs long work in a process of its own."""

    async def run(self, job: ImportGguf, progress: Callable[[str, float], None]) -> JobDone:
        """Raises JobFailed. Cancelled, it leaves no process."""
