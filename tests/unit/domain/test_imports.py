"""Imports: all at once, or nothing left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.imports import import_gguf
from lemonade_serve.hub.catalog import DiskCatalog
from tests.fakes import FakeJobRunner, asynchronous


def left_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@asynchronous
async def test_a_finished_import_is_published_in_the_dtype_it_has(tmp_path: Path) -> None:
    jobs, progress = FakeJobRunner(dtype="int8"), []
    path = await import_gguf(
        Path("/x.gguf"),
        "org/x",
        "auto",
        jobs=jobs,
        shelf=DiskCatalog(tmp_path),
        progress=lambda stage, fraction: progress.append((stage, fraction)),
    )
    assert path == tmp_path / "org" / "x" / "int8"
    assert left_in(tmp_path) == ["org", "org/x", "org/x/int8", "org/x/int8/genai_config.json"]
    assert progress == [("writing", 0.5)]
    (job,) = jobs.jobs
    assert (job.source, job.dtype) == ("/x.gguf", "auto")


@pytest.mark.parametrize(
    "failure", [errors.JobFailed("no"), errors.UnsupportedModel("no"), asyncio.CancelledError()]
)
def test_an_import_that_fails_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        asyncio.run(_import("x", FakeJobRunner(failure=failure), tmp_path))
    assert left_in(tmp_path) == []


@asynchronous
async def test_without_a_name_it_is_called_what_the_importer_suggests(tmp_path: Path) -> None:
    path = await _import(None, FakeJobRunner(name="org/its-own"), tmp_path)
    assert path == tmp_path / "org" / "its-own" / "int4"


@asynchronous
async def test_a_name_that_cannot_be_starts_no_job(tmp_path: Path) -> None:
    jobs = FakeJobRunner()
    with pytest.raises(errors.InvalidRequest):
        await _import("../x", jobs, tmp_path / "root")
    assert jobs.jobs == []
    assert left_in(tmp_path) == []


@asynchronous
async def test_a_suggestion_that_cannot_be_a_name_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest):
        await _import(None, FakeJobRunner(name="../x"), tmp_path / "root")
    assert left_in(tmp_path) == ["root"]


async def _import(name: str | None, jobs: FakeJobRunner, root: Path) -> Path:
    return await import_gguf(
        Path("/x.gguf"),
        name,
        "auto",
        jobs=jobs,
        shelf=DiskCatalog(root),
        progress=lambda stage, fraction: None,
    )
