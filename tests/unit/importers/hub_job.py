"""Jobs that ask a hub, in this process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lemonade_serve.importers.fetching import fetch
from lemonade_serve.importers.hub import list_repository
from lemonade_serve.protocol.jobs import Fetched, FetchFiles, ListRepository, Repository
from tests.hub import Hub

NAME = "org/model"
LARGE = random.Random(7).randbytes(600_000)  # noqa: S311, no secret
FILES = {"config.json": b'{"a": 1}', "sub/model.onnx": LARGE, "tokenizer.json": b"{}" * 500}


class Machine:
    """One that has a hub's cache, and a directory for a checkpoint."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.cache = directory / "hub"
        self.into = directory / "into"
        self.into.mkdir()
        self.told: list[tuple[str, float]] = []

    def list(self, revision: str = "", name: str = NAME) -> Repository:
        return list_repository(ListRepository(name, revision), str(self.cache))

    def job(self, listed: Repository, **said: object) -> FetchFiles:
        job = FetchFiles(
            listed.name,
            listed.commit,
            listed.files,
            into=str(self.into),
            folder="",
            at_once=2,
            keep_free=0,
            silence_s=5.0,
            retries=2,
            revision=listed.revision,
        )
        return msgspec.structs.replace(job, **said)

    def fetch(self, **said: object) -> Fetched:
        return self.run(self.job(self.list(), **said))

    def run(self, job: FetchFiles) -> Fetched:
        return fetch(job, lambda *told: self.told.append(told), str(self.cache))

    def blobs(self) -> list[Path]:
        return sorted(self.cache.glob("models--*/blobs/*"))

    def partials(self) -> Sequence[Path]:
        return [blob for blob in self.blobs() if blob.name.endswith(".incomplete")]

    def contents(self) -> dict[str, bytes]:
        """What lies in the directory of the checkpoint."""
        return {
            path.relative_to(self.into).as_posix(): path.read_bytes()
            for path in self.into.rglob("*")
            if path.is_file()
        }
