"""Making a checkpoint of what the hub has, from the list of its files to its place here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import NamedTuple

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import AUTO, CheckpointInfo
from lemonade_serve.domain.conversions import Workshops
from lemonade_serve.domain.orders import Order
from lemonade_serve.domain.ports import CheckpointCatalog, CheckpointShelf, Hub, JobRunner
from lemonade_serve.domain.provenance import Source, SourceFile
from lemonade_serve.domain.selection import Kind, Selection, Wanted, select
from lemonade_serve.protocol.jobs import (
    Fetched,
    FetchFiles,
    ImportGguf,
    ListRepository,
    Repository,
)

Progress = Callable[[str, float], None]

_IMPORT_BEGINS = 0.8
"""How much of the whole the download is, where an import follows."""
_CONVERSION_BEGINS = 0.5


class FetchTerms(msgspec.Struct, frozen=True, kw_only=True):
    """`keep_free` bytes of the disk stay free; see `FetchFiles` for the others. `providers`: the
    execution providers that there are here, the preferred one first; `program` signs for what was
    made."""

    at_once: int
    keep_free: int
    silence_s: float
    retries: int
    providers: tuple[str, ...]
    program: str


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint that there is now. `new`: it was not here already, at this commit."""

    info: CheckpointInfo
    commit: str
    bytes: int
    new: bool


class Shelves(NamedTuple):
    """Where checkpoints are made and put, and where they are found then."""

    shelf: CheckpointShelf
    catalog: CheckpointCatalog


class Fetcher:
    """One order at a time, start to end."""

    def __init__(
        self,
        hub: Hub,
        jobs: JobRunner,
        shelves: Shelves,
        workshops: Workshops,
        *,
        terms: FetchTerms,
        wall: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._jobs = jobs
        self._shelf = shelves.shelf
        self._catalog = shelves.catalog
        self._workshops = workshops
        self._terms = terms
        self._wall = wall

    async def fetch(self, order: Order, progress: Progress) -> Pulled:
        """Raises ModelNotFound, NotAllowed, HubError, UnsupportedModel, DeviceUnavailable,
        DiskFull, JobFailed, and leaves no half of a checkpoint then."""
        progress("asking the hub", 0.0)
        listed = await self._hub.list(ListRepository(order.repository, order.revision))
        wanted = Wanted(include=order.include, dtype=order.dtype, providers=self._terms.providers)
        selection = select(listed, wanted)
        if there := await self._there(order, listed, selection):
            return Pulled(info=there, commit=listed.commit, bytes=selection.bytes, new=False)
        info = await self._make(order, listed, selection, progress)
        return Pulled(info=info, commit=listed.commit, bytes=selection.bytes, new=True)

    async def _there(
        self, order: Order, listed: Repository, selection: Selection
    ) -> CheckpointInfo | None:
        """One that was made of the same files already."""
        sources = {(file.path, file.size) for file in selection.files}
        for info in await asyncio.to_thread(self._catalog.list, None):
            fits = info.name == order.model and order.dtype in (AUTO, info.dtype)
            if fits and info.commit == listed.commit:
                source = (await asyncio.to_thread(self._shelf.provenance, info)).source
                if source and {(file.path, file.bytes) for file in source.files} == sources:
                    return info
        return None

    async def _make(
        self, order: Order, listed: Repository, selection: Selection, progress: Progress
    ) -> CheckpointInfo:
        with self._shelf.staging() as staged:
            fetched, how = await self._bring(order, listed, selection, staged, progress)
            pulled = self._source(listed, selection, fetched, how)
            dtype = await asyncio.to_thread(self._shelf.attest, staged, pulled)
            if order.dtype not in (AUTO, dtype):
                raise errors.DeviceUnavailable(
                    f"{selection.folder or order.repository} turned out to be {dtype}, not "
                    f"{order.dtype}",
                    param="dtype",
                )
            progress("publishing", 1.0)
            self._shelf.publish(staged, order.model, dtype)
            return await asyncio.to_thread(self._catalog.find, order.model, dtype, None)

    async def _bring(
        self,
        order: Order,
        listed: Repository,
        selection: Selection,
        staged: Path,
        progress: Progress,
    ) -> tuple[Fetched, str]:
        """The files, and what became of them in `staged`."""

        def fetch(into: str, until: float) -> Coroutine[None, None, Fetched]:
            return self._fetch(order, listed, selection, into, _part(progress, 0.0, until))

        match selection.kind:
            case Kind.ONNX:
                return await fetch(str(staged), 1.0), "fetched as it is"
            case Kind.GGUF:
                fetched = await fetch("", _IMPORT_BEGINS)
                job = ImportGguf(fetched.paths[0], str(staged), order.dtype)
                await self._jobs.run(job, _part(progress, _IMPORT_BEGINS, 1.0))
                return fetched, "imported from a GGUF file"
            case Kind.SAFETENSORS | Kind.ENCODER:
                encodes = selection.kind is Kind.ENCODER
                workshop = self._workshops.encoders if encodes else self._workshops.decoders
                recipe = workshop.recipe(order.dtype, self._terms.providers)
                await workshop.require()  # or it would be fetched for nothing
                fetched = await fetch("", _CONVERSION_BEGINS)
                source = Path(fetched.paths[0]).parent  # of the configuration: all are beside it
                rest = _part(progress, _CONVERSION_BEGINS, 1.0)
                await workshop.make(source, staged, recipe, rest)
                return fetched, "converted from safetensors"

    def _fetch(
        self,
        order: Order,
        listed: Repository,
        selection: Selection,
        into: str,
        progress: Progress,
    ) -> Coroutine[None, None, Fetched]:
        return self._hub.fetch(
            FetchFiles(
                order.repository,
                listed.commit,
                selection.files,
                into=into,
                folder=selection.folder,
                at_once=self._terms.at_once,
                keep_free=self._terms.keep_free,
                silence_s=self._terms.silence_s,
                retries=self._terms.retries,
                revision=listed.revision,
            ),
            progress,
        )

    def _source(
        self, listed: Repository, selection: Selection, fetched: Fetched, how: str
    ) -> Source:
        files = [
            SourceFile(path=file.path, bytes=file.size, sha256=sha256, downloaded=downloaded)
            for file, sha256, downloaded in zip(
                selection.files, fetched.sha256, fetched.downloaded, strict=True
            )
        ]
        return Source(
            repository=listed.name,
            revision=listed.revision,
            commit=listed.commit,
            license=listed.license,
            how=how,
            program=self._terms.program,
            pulled_s=int(self._wall()),
            files=tuple(files),
        )


def _part(progress: Progress, begin: float, end: float) -> Progress:
    """Tells of a stretch of the whole."""

    def told(stage: str, fraction: float) -> None:
        progress(stage, begin + fraction * (end - begin))

    return told
