"""Pulls: shared, bounded, and ended when nobody wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.fetcher import Fetcher, FetchTerms, Shelves
from lemonade_serve.domain.orders import Order, order
from lemonade_serve.domain.pulls import Puller
from lemonade_serve.hub import provenance
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.protocol.jobs import (
    Fetched,
    FetchFiles,
    ListRepository,
    Repository,
    RepositoryFile,
)
from tests.fakes import FakeConverter, FakeJobRunner, asynchronous, workshops
from tests.unit.hub.graphs import put

TERMS = FetchTerms(
    at_once=2, keep_free=0, silence_s=1.0, retries=1, providers=("cpu",), program="this 1.0"
)
TINY = order("org/tiny")


class FakeHub:
    """A `Hub` of one checkpoint; `hold` keeps fetches from finishing until `go`."""

    def __init__(self) -> None:
        self.commit = "c" * 40
        self.names: tuple[str, ...] = ("genai_config.json", "model.onnx")
        self.fetches: list[FetchFiles] = []
        self.fetching = asyncio.Event()
        self.cancelled = 0
        self._may_finish = asyncio.Event()
        self._may_finish.set()

    def hold(self) -> None:
        self._may_finish.clear()

    def go(self) -> None:
        self._may_finish.set()

    async def list(self, job: ListRepository) -> Repository:
        names = self.names
        files = tuple(RepositoryFile(name, 10, sha256="0" * 64) for name in names)
        return Repository(job.repository, job.revision or "main", self.commit, files, "mit")

    async def fetch(self, job: FetchFiles, progress: Callable[[str, float], None]) -> Fetched:
        self.fetches.append(job)
        self.fetching.set()
        progress("downloading", 0.5)
        try:
            await self._may_finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        put(Path(job.into) / "made")
        for path in (Path(job.into) / "made").iterdir():
            path.rename(Path(job.into) / path.name)
        (Path(job.into) / "made").rmdir()
        return Fetched(("a", "b"), ("1" * 64, "2" * 64), (True, False))


class House:
    def __init__(self, root: Path, *, at_once: int = 1, queue: int = 1) -> None:
        self.hub = FakeHub()
        self.root = root
        self.converter = FakeConverter("torch")
        catalog = DiskCatalog(root)
        fetcher = Fetcher(
            self.hub,
            FakeJobRunner(),
            Shelves(catalog, catalog),
            workshops(self.converter),
            terms=TERMS,
            wall=lambda: 7.5,
        )
        self.puller = Puller(fetcher, at_once=at_once, queue=queue)

    def left(self) -> list[str]:
        return [path.name for path in self.root.iterdir()]

    def begin(self, wanted: Order = TINY) -> asyncio.Task[Any]:
        return asyncio.create_task(self.puller.pull(wanted, lambda *_: None))


@asynchronous
async def test_a_checkpoint_is_published_with_its_provenance(tmp_path: Path) -> None:
    house, told = House(tmp_path), []
    pulled = await house.puller.pull(TINY, lambda *progress: told.append(progress))
    assert (pulled.new, pulled.commit, pulled.bytes) == (True, "c" * 40, 20)
    assert pulled.info.path == tmp_path / "org" / "tiny" / "int4"
    assert pulled.info.commit == "c" * 40
    source = provenance.read(pulled.info.path).source
    assert source is not None
    assert (source.repository, source.revision, source.pulled_s) == ("org/tiny", "main", 7)
    assert [(file.sha256[0], file.downloaded) for file in source.files] == [
        ("1", True),
        ("2", False),
    ]
    stages = [stage for stage, _ in told]
    assert stages == ["waiting for its turn", "asking the hub", "downloading", "publishing"]


@asynchronous
async def test_what_is_here_is_not_fetched_again_until_it_moves(tmp_path: Path) -> None:
    house = House(tmp_path)
    first = await house.begin()
    assert (await house.begin()).new is False
    house.hub.commit = "d" * 40
    moved = await house.begin()
    assert (moved.new, moved.info.path) == (True, first.info.path)
    assert len(house.hub.fetches) == 2


@asynchronous
async def test_a_revision_is_part_of_the_name(tmp_path: Path) -> None:
    pulled = await House(tmp_path).begin(order("org/tiny@refs/pr/3"))
    assert pulled.info.name == "org/tiny@refs-pr-3"


@asynchronous
async def test_who_wants_the_same_shares_it(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.hub.hold()
    pulls = [house.begin() for _ in range(5)]
    await house.hub.fetching.wait()
    house.hub.go()
    assert len({id(pulled) for pulled in await asyncio.gather(*pulls)}) == 1
    assert len(house.hub.fetches) == 1


@asynchronous
async def test_it_ends_with_the_last_who_leaves(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.hub.hold()
    one, other = house.begin(), house.begin()
    await house.hub.fetching.wait()
    one.cancel()
    await asyncio.wait({one})
    assert house.hub.cancelled == 0
    other.cancel()
    await asyncio.wait({other})
    assert house.hub.cancelled == 1
    assert house.left() == []
    house.hub.go()
    assert (await house.begin()).new is True


@asynchronous
async def test_one_that_the_daemon_wants_goes_on_alone(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.hub.hold()
    caller = house.begin()
    with pytest.raises(errors.Unavailable, match="is being pulled: downloading, 50%"):
        await house.puller.ensure(TINY, 0.01)
    caller.cancel()
    await asyncio.wait({caller})
    assert house.hub.cancelled == 0
    house.hub.go()
    assert (await house.puller.ensure(TINY, 10)).info.name == "org/tiny"


@asynchronous
async def test_pulls_are_bounded(tmp_path: Path) -> None:
    house = House(tmp_path, at_once=1, queue=1)
    house.hub.hold()
    first, second = house.begin(order("a/a")), house.begin(order("b/b"))
    await house.hub.fetching.wait()
    with pytest.raises(errors.QueueFull, match="max_queue"):
        await house.puller.pull(order("c/c"), lambda *_: None)
    assert [fetch.repository for fetch in house.hub.fetches] == ["a/a"]
    house.hub.go()
    await asyncio.gather(first, second)


@asynchronous
async def test_closing_ends_them_and_says_why(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.hub.hold()
    caller = house.begin()
    await house.hub.fetching.wait()
    await house.puller.close()
    with pytest.raises(errors.Draining):
        await caller


@asynchronous
async def test_a_dtype_that_it_turns_out_not_to_be_publishes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    with pytest.raises(errors.DeviceUnavailable, match="turned out to be int4"):
        await house.begin(order("org/tiny", dtype="fp16"))
    assert house.left() == []


@pytest.mark.parametrize(
    "what", ["", "a/b/c", "../a", "a@", "a@b c", "a b", "/a", "a/b@../c", "a/b@c/../../d"]
)
def test_what_names_no_repository_is_refused(what: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        order(what)


@asynchronous
async def test_what_could_not_be_converted_is_not_fetched(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.hub.names = ("config.json", "tokenizer.json", "model.safetensors")
    with pytest.raises(errors.UnsupportedModel, match="it has no torch"):
        await house.begin()
    with pytest.raises(errors.DeviceUnavailable, match="no fp16 for cpu"):
        await house.begin(order("org/tiny", dtype="fp16"))
    assert house.hub.fetches == []
    assert house.left() == []
