"""The hub's cache belongs to others too: what its own library makes of ours, and we of its."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    close_session,
    constants,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)

from lemonade_serve import errors
from lemonade_serve.importers import fetching
from lemonade_serve.importers.hub_cache import HubCache
from lemonade_serve.protocol.jobs import RepositoryFile
from tests.hub import Fault, Repository
from tests.unit.importers.hub_job import FILES, LARGE, NAME, Machine


def again(machine: Machine) -> None:
    """Into an empty directory."""
    shutil.rmtree(machine.into)
    machine.into.mkdir()


def share(machine: Machine, path: str) -> Path:
    """Move a file of the cache where the hub's library keeps what several repositories have: the
    repository's `blobs/DIGEST` is a link to it then. Returns where it is."""
    (blob,) = (b for b in machine.blobs() if b.read_bytes() == FILES[path])
    xet = "ab" + "5" * 62
    stored = machine.cache / "blobs" / "ab" / xet
    stored.parent.mkdir(parents=True)
    blob.rename(stored)
    blob.symlink_to(os.path.relpath(stored, blob.parent))
    return stored


def test_its_own_library_sees_nothing_wrong_with_the_cache(machine: Machine) -> None:
    machine.fetch()
    scanned = scan_cache_dir(machine.cache)
    assert scanned.warnings == []
    (repository,) = scanned.repos
    assert (repository.repo_id, repository.nb_files) == (NAME, len(FILES))
    assert [sorted(revision.refs) for revision in repository.revisions] == [["main"]]
    assert scanned.incomplete_files == frozenset()


def test_who_only_asks_what_there_is_changes_nothing_there(machine: Machine) -> None:
    snapshot_download(NAME, cache_dir=machine.cache)
    machine.hub.add(NAME, {**FILES, "config.json": b"new"})
    machine.list()
    offline = Path(snapshot_download(NAME, cache_dir=machine.cache, local_files_only=True))
    assert (offline / "config.json").read_bytes() == FILES["config.json"]


def test_a_pull_that_is_refused_leaves_the_branch_where_it_was(machine: Machine) -> None:
    snapshot_download(NAME, cache_dir=machine.cache)
    machine.hub.add(NAME, {**FILES, "config.json": b"new"})
    with pytest.raises(errors.DiskFull):
        machine.fetch(keep_free=1 << 60)
    snapshot_download(NAME, cache_dir=machine.cache, local_files_only=True)
    assert scan_cache_dir(machine.cache).warnings == []


def test_a_branch_that_moved_is_noted_when_its_files_are_there(machine: Machine) -> None:
    machine.fetch()
    repository = machine.hub.add(NAME, {**FILES, "config.json": b"new"})
    again(machine)
    machine.fetch()
    offline = Path(snapshot_download(NAME, cache_dir=machine.cache, local_files_only=True))
    assert offline.name == repository.commit
    assert scan_cache_dir(machine.cache).warnings == []


def test_offline_what_is_shared_between_repositories_is_found(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download(NAME, cache_dir=machine.cache)
    share(machine, "sub/model.onnx")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert machine.fetch().downloaded == (False, False, False)
    assert machine.contents() == FILES


def test_what_is_shared_is_not_fetched_again(machine: Machine) -> None:
    snapshot_download(NAME, cache_dir=machine.cache)
    stored = share(machine, "sub/model.onnx")
    asked = len(machine.hub.downloads())
    assert machine.fetch().downloaded == (False, False, False)
    assert len(machine.hub.downloads()) == asked
    assert stored.read_bytes() == LARGE


def test_a_cache_that_nobody_may_write_to_serves_what_it_has(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download(NAME, cache_dir=machine.cache)
    before = sorted(machine.cache.rglob("*"))
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *more: Any, **and_more: Any) -> object:
        if mode not in ("r", "rb") and path.is_relative_to(machine.cache):
            raise PermissionError(f"{path} is not yours")
        return opened(path, mode, *more, **and_more)

    monkeypatch.setattr(Path, "open", refuse)
    assert machine.fetch().downloaded == (False, False, False)
    assert machine.contents() == FILES
    assert sorted(machine.cache.rglob("*")) == before


def test_a_cache_that_cannot_be_written_to_is_said(machine: Machine) -> None:
    machine.cache.write_bytes(b"a file")
    with pytest.raises(errors.JobFailed, match="cannot keep"):
        machine.fetch()


def test_where_it_is_kept_without_links_its_files_are_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems that have none."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    snapshot_download(NAME, cache_dir=machine.cache)
    assert machine.blobs() == []
    asked = len(machine.hub.downloads())
    assert machine.fetch().downloaded == (False, False, False)
    assert len(machine.hub.downloads()) == asked
    assert machine.contents() == FILES
    assert not any(path.is_symlink() for path in machine.cache.rglob("*"))


def test_where_there_are_no_links_files_are_moved_to_their_place(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    for kind in ("symlink_to", "hardlink_to"):
        monkeypatch.setattr(Path, kind, refuse)
    machine.fetch()
    assert machine.contents() == FILES
    assert machine.blobs() == []
    assert scan_cache_dir(machine.cache).warnings == []
    again(machine)
    assert machine.fetch().downloaded == (False, False, False)
    asked = len(machine.hub.downloads())
    snapshot_download(NAME, cache_dir=machine.cache)
    assert len(machine.hub.downloads()) == asked


def test_two_files_of_one_content_are_one(machine: Machine) -> None:
    machine.hub.add(NAME, {"a/model.onnx": LARGE, "b/model.onnx": LARGE})
    assert machine.fetch().downloaded == (True, True)
    assert len(machine.hub.downloads()) == 1


def test_what_another_removes_meanwhile_is_not_pointed_to(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last byte and its name; the next pull fetches it again."""

    def remove(file: RepositoryFile, cache: HubCache, *more: Any, **and_more: Any) -> bool:
        new = complete(file, cache, *more, **and_more)
        if file.sha256:
            cache.blob(file).unlink()
        return new

    complete = fetching.complete
    monkeypatch.setattr(fetching, "complete", remove)
    with pytest.raises(errors.JobFailed, match="removed meanwhile"):
        machine.fetch()
    assert all(path.exists() for path in machine.cache.rglob("*"))
    monkeypatch.setattr(fetching, "complete", complete)
    machine.fetch()
    assert machine.contents() == FILES


def test_files_of_no_bytes_are_files(machine: Machine) -> None:
    files = {"empty.json": b"", "empty.onnx": b""}
    machine.hub.add(NAME, files)
    machine.fetch()
    assert machine.contents() == files


def test_a_repository_that_was_renamed_is_followed(machine: Machine) -> None:
    machine.hub.moved["gpt2"] = NAME
    listed = machine.list(name="gpt2")
    machine.run(machine.job(listed))
    assert machine.contents() == FILES
    path = hf_hub_download("gpt2", "config.json", cache_dir=machine.cache)
    assert Path(path).read_bytes() == FILES["config.json"]
    assert scan_cache_dir(machine.cache).warnings == []


def test_names_that_the_disk_dislikes_are_files_all_the_same(machine: Machine) -> None:
    names = ["a b+c%20?#&.json", "ü/é.json", "-rf", "a\nb.json", "CON.json", "con.json", "x" * 255]
    machine.hub.add(NAME, {name: name.encode() for name in names})
    machine.fetch()
    assert machine.contents() == {name: name.encode() for name in names}


@pytest.mark.parametrize("path", ["a\0b", "x" * 256, "a/" * 2100 + "x"])
def test_names_that_no_disk_can_have_are_refused(machine: Machine, path: str) -> None:
    file = RepositoryFile(path, 0, git="e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
    with pytest.raises(errors.JobFailed):
        machine.run(machine.job(machine.list(), files=(file,)))


def test_a_gated_repository_may_show_its_list_to_all(machine: Machine) -> None:
    machine.hub.add(NAME, dict(FILES), gated=True, listed=True)
    page = f"{machine.hub.url}/{NAME}"
    with pytest.raises(errors.NotAllowed, match=f"do that at {page},"):
        machine.fetch()


def test_an_error_page_of_any_form_is_no_surprise(machine: Machine) -> None:
    for body in (b'["busy"]', b'"busy"', b"\xff\xfe", b'{"error": 7}', b"null"):
        machine.hub.error_body = body
        with pytest.raises(errors.LemonadeError):
            machine.list(name="org/other")


def test_an_address_that_was_good_once_is_asked_for_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub signs those of its CDN for a time."""
    monkeypatch.setattr("lemonade_serve.importers.blob.pause", lambda *_: None)
    listed = machine.list()
    large = tuple(file for file in listed.files if file.sha256)
    machine.hub.faults = [Fault(status=403)]
    machine.run(machine.job(listed, files=large))
    assert machine.contents() == {"sub/model.onnx": LARGE}


def test_a_hub_that_is_no_address_is_not_asked_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lemonade_serve.importers.hub.pause", lambda *_: pytest.fail("it waits"))
    monkeypatch.setattr(constants, "ENDPOINT", "hub.example")
    with pytest.raises(errors.HubError, match=r"HF_ENDPOINT.*hub\.example"):
        machine.list()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://a:b:c"])
def test_a_proxy_that_cannot_be_used_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    close_session()
    with pytest.raises(errors.HubError, match="proxies"):
        machine.list()


def test_what_the_hub_has_taken_down_is_no_matter_of_tokens(machine: Machine) -> None:
    why = {"X-Error-Message": "Access to this resource is disabled."}
    machine.hub.listing_faults = [Fault(status=403, headers=why)]
    with pytest.raises(errors.NotAllowed, match="disabled"):
        machine.list()


def test_old_and_new_stand_beside_each_other(machine: Machine) -> None:
    machine.hub.revisions[NAME, "v1/x"] = Repository(files={**FILES, "config.json": b"old"})
    machine.fetch()
    again(machine)
    machine.run(machine.job(machine.list("v1/x")))
    assert machine.contents()["config.json"] == b"old"
    for revision in ("main", "v1/x"):
        snapshot_download(NAME, revision=revision, cache_dir=machine.cache, local_files_only=True)
    assert scan_cache_dir(machine.cache).warnings == []
