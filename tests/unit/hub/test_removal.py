"""What a removal takes out of the hub's cache, and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download

from lemonade_serve.domain.provenance import Source, SourceFile
from lemonade_serve.hub.removal import forget, hub_cache
from lemonade_serve.protocol.jobs import Fetched, Repository
from tests.hub import Hub, running
from tests.unit.importers.hub_job import FILES, LARGE, NAME, Machine


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        hub.add(NAME, dict(FILES))
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def source(listed: Repository, fetched: Fetched) -> Source:
    files = [
        SourceFile(path=file.path, bytes=file.size, sha256=sha256, downloaded=downloaded)
        for file, sha256, downloaded in zip(
            listed.files, fetched.sha256, fetched.downloaded, strict=True
        )
    ]
    return Source(
        repository=listed.name,
        revision=listed.revision,
        commit=listed.commit,
        license=None,
        how="fetched as it is",
        program="this 1.0",
        pulled_s=0,
        files=tuple(files),
    )


def pulled(machine: Machine) -> Source:
    for path in sorted(machine.into.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    listed = machine.list()
    return source(listed, machine.run(machine.job(listed)))


def left(machine: Machine) -> list[str]:
    files = (path for path in machine.cache.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(machine.cache)) for path in files)


def test_what_was_fetched_for_it_is_gone_with_all_that_named_it(machine: Machine) -> None:
    forget(pulled(machine), machine.cache)
    assert left(machine) == []
    assert scan_cache_dir(machine.cache).warnings == []
    assert machine.contents() == FILES


def test_another_commit_and_its_branch_stay(machine: Machine) -> None:
    old = pulled(machine)
    machine.hub.add(NAME, {**FILES, "config.json": b"new"})
    new = pulled(machine)
    forget(new, machine.cache)
    assert scan_cache_dir(machine.cache).warnings == []
    snapshot_download(NAME, revision=old.commit, cache_dir=machine.cache, local_files_only=True)
    forget(old, machine.cache)
    assert scan_cache_dir(machine.cache).warnings == []


def test_what_another_program_fetched_stays(machine: Machine) -> None:
    path = Path(hf_hub_download(NAME, "config.json", cache_dir=machine.cache))
    forget(pulled(machine), machine.cache)
    assert path.read_bytes() == FILES["config.json"]
    assert [blob.read_bytes() for blob in machine.blobs()] == [FILES["config.json"]]
    hf_hub_download(NAME, "config.json", cache_dir=machine.cache, local_files_only=True)
    assert scan_cache_dir(machine.cache).warnings == []


def test_what_its_own_library_fetched_beside_it_stays(machine: Machine) -> None:
    mine = pulled(machine)
    machine.hub.add(NAME, {**FILES, "config.json": b"new"})
    snapshot_download(NAME, cache_dir=machine.cache)
    forget(mine, machine.cache)
    path = Path(snapshot_download(NAME, cache_dir=machine.cache, local_files_only=True))
    assert (path / "sub" / "model.onnx").read_bytes() == LARGE
    assert scan_cache_dir(machine.cache).warnings == []


def test_what_repositories_share_stays(machine: Machine) -> None:
    mine = pulled(machine)
    (blob,) = (b for b in machine.blobs() if b.read_bytes() == LARGE)
    stored = machine.cache / "blobs" / "ab" / ("ab" + "5" * 62)
    stored.parent.mkdir(parents=True)
    blob.rename(stored)
    blob.symlink_to(os.path.relpath(stored, blob.parent))
    forget(mine, machine.cache)
    assert left(machine) == [str(stored.relative_to(machine.cache))]


def test_without_links_it_is_gone_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    forget(pulled(machine), machine.cache)
    assert left(machine) == []


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"HF_HOME": "$HOME/a"},
        {"HF_HUB_CACHE": "~/b", "HF_HOME": "/x"},
        {"HUGGINGFACE_HUB_CACHE": "/c"},
        {"XDG_CACHE_HOME": "/d", "HF_HUB_CACHE": ""},
        {"HF_HOME": ""},
    ],
)
def test_the_cache_is_where_the_hubs_own_library_has_it(said: dict[str, str]) -> None:
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names} | said
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert hub_cache(environment) == Path(theirs.stdout.rstrip("\n"))


@pytest.mark.parametrize(
    "lie",
    [
        {"commit": "../../../of-others"},
        {"repository": "org/model/../../of-others"},
        {"files": "../../../../of-others/x"},
        {"files": "link/x"},
    ],
)
def test_it_removes_nothing_elsewhere_whatever_a_checkpoint_says(
    machine: Machine, lie: dict[str, str]
) -> None:
    """A directory that was copied from somewhere says what its maker liked."""
    mine = pulled(machine)
    others = machine.cache.parent / "of-others" / "snapshots" / mine.commit
    others.mkdir(parents=True)
    snapshot = machine.cache / "models--org--model" / "snapshots" / mine.commit
    (snapshot / "link").symlink_to(machine.cache.parent / "of-others")
    precious = [machine.cache.parent / "of-others" / "x", others / "x"]
    for path in precious:
        path.write_bytes(b"precious")
    file = SourceFile(path=lie.get("files", "x"), bytes=8, sha256="0" * 64, downloaded=True)
    said = msgspec.structs.replace(mine, **{**lie, "files": (file,)})
    forget(said, machine.cache)
    assert all(path.exists() for path in precious)
