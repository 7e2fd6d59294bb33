"""What the domain needs of the world. The adapters stand outside and meet it in `app.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.events import Event, RequestFinished
from lemonade_serve.domain.provenance import Provenance, Source
from lemonade_serve.protocol.jobs import (
    ConvertModel,
    Exporter,
    Fetched,
    FetchFiles,
    ImportGguf,
    JobDone,
    ListRepository,
    Repository,
)
from lemonade_serve.protocol.messages import (
    Adapter,
    Begun,
    Echo,
    Encoded,
    Encoding,
    Finished,
    Queued,
    Ready,
    Started,
    Token,
    Work,
)
from lemonade_serve.settings.parameters import Options

Clock = Callable[[], float]
"""Seconds, on a clock that never goes back."""

Deliver = Callable[[Queued | Started | Echo | Token | Finished], None]
"""Takes an event at once; must not block or raise."""

DeliverEncoded = Callable[[Begun | Encoded], None]
"""As `Deliver`."""


class Worker(Protocol):
    """A process that has one checkpoint loaded."""

    pid: int
    ready: Ready
    exited: asyncio.Future[str]
    """Done, with the reason in words, as soon as the process is gone and reaped."""

    @property
    def memory_bytes(self) -> int:
        """Its resident size; 0 when it is gone."""

    @property
    def kv_tokens(self) -> int:
        """What its running sequences have of the KV cache."""

    async def generate(self, work: Work, deliver: Deliver) -> None:
        """One request, until all its sequences are finished. Its events are handed to `deliver` as
        they come: perhaps `Queued`, again whenever that changes; `Started`; `Echo`, if it is
        wanted; then `Token` upon `Token`, and a `Finished` for each sequence.

        Cancelled, it cancels the request and does not wait for that. Raises what the worker said
        was wrong with the request, GenerationFailed, or WorkerLost if the process dies.
        """

    async def encode(self, work: Encoding, deliver: DeliverEncoded) -> None:
        """As `generate`, of an encoder: `Begun`, then an `Encoded` for each input, in any order."""

    async def stop(self, cause: errors.LemonadeError) -> None:
        """End the process, and its running requests with `cause`. Returns when it is reaped."""


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, info: CheckpointInfo, device: Device) -> Worker:
        """A worker that is loaded and warm. Raises ModelLoadError, or NoCapacity when there was no
        memory for it; leaves no process then."""


class CheckpointCatalog(Protocol):
    """The checkpoints on disk. Its methods block: call them off the event loop."""

    def find(
        self, name: str, dtype: str, cache_dir: str | None, adapter: str | None = None
    ) -> CheckpointInfo:
        """With an `adapter`, one that has it. Raises ModelNotFound, DeviceUnavailable for a dtype
        that is not there, AdapterNotFound, NotAllowed."""

    def adapters(self, info: CheckpointInfo) -> Sequence[Adapter]:
        """Those that lie beside it now."""

    def list(self, cache_dir: str | None) -> Sequence[CheckpointInfo]:
        """All of them, by name. Raises NotAllowed for a directory outside the allowed roots."""


class Observer(Protocol):
    """Sees every event; must not block or raise."""

    def observe(self, event: Event) -> None: ...


class LastRequests(Protocol):
    """What `/stats` says: the request that finished last."""

    def last(self, model: str | None = None) -> RequestFinished | None:
        """Of one model, or of all; None before the first."""


class ParamsStore(Protocol):
    """The generation parameters that clients keep, over restarts.

    A `client` has one set for all models (`model` "") and one for each model that it names. A
    write that returned survives a SIGKILL; one that did not is there whole or not at all.
    """

    async def get(self, client: str, model: str = "") -> Options:
        """What the client keeps; all None when that is nothing. Raises StoreUnavailable."""

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        """Replace what is kept by `change` of it, as one step that no other writer comes between;
        returns it. What `change` raises is raised, and nothing is stored.

        Raises StoreUnavailable, and ClientLimit when there are too many clients already.
        """

    async def forget(self, client: str, model: str | None = None) -> None:
        """Drop one set, or with None all that the client keeps. Raises StoreUnavailable."""


class Pin(msgspec.Struct, frozen=True, order=True):
    """A checkpoint that its operator wants to stay."""

    model: str
    device: str
    dtype: str


class PinStore(Protocol):
    """The pins, over restarts. Its methods block: call them off the event loop."""

    def load(self) -> frozenset[Pin]:
        """Raises StoreUnavailable."""

    def save(self, pins: frozenset[Pin]) -> None:
        """All at once or not at all. Raises StoreUnavailable."""


class AliasStore(Protocol):
    """What names stand for, over restarts. Its methods block: call them off the event loop."""

    def load(self) -> Mapping[str, str]:
        """Raises StoreUnavailable."""

    def save(self, aliases: Mapping[str, str]) -> None:
        """All at once or not at all. Raises StoreUnavailable."""


class CheckpointShelf(Protocol):
    """Where a new checkpoint is made, and then put."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty directory, gone with all that is in it unless `publish` takes it."""

    def publish(self, staged: Path, name: str, dtype: str) -> Path:
        """Give it its place among the others, all at once; returns where that is."""

    def attest(self, staged: Path, source: Source) -> str:
        """Write down where it came from; returns the dtype of its matrices. Blocks. Raises
        ModelLoadError for what is no checkpoint, and JobFailed."""

    def provenance(self, info: CheckpointInfo) -> Provenance:
        """What is known of where one came from. Blocks."""

    def remove(self, info: CheckpointInfo) -> None:
        """Take it off the disk, and what was fetched for it alone. Blocks. Raises NotAllowed where
        others are inside of it, and JobFailed."""


class Hub(Protocol):
    """Where repositories are. What is fetched lands in a cache that other programs share."""

    async def list(self, job: ListRepository) -> Repository:
        """Raises ModelNotFound, NotAllowed, HubError, JobFailed."""

    async def fetch(self, job: FetchFiles, progress: Callable[[str, float], None]) -> Fetched:
        """As `list`, and DiskFull. Cancelled, it leaves no process; what there is of a file
        already is not fetched again the next time."""


class JobRunner(Protocol):
    """Runs long work in a process of its own."""

    async def run(self, job: ImportGguf, progress: Callable[[str, float], None]) -> JobDone:
        """Raises JobFailed. Cancelled, it leaves no process."""


class Converter(Protocol):
    """Makes checkpoints out of models as the hub has them, where there is what it takes."""

    async def exporter(self, *, encoders: bool) -> Exporter:
        """What there is, for encoders or for what generates. Raises JobFailed."""

    async def convert(self, job: ConvertModel, progress: Callable[[str, float], None]) -> JobDone:
        """Raises UnsupportedModel, DiskFull, JobFailed. Cancelled, it leaves no process."""
