"""What is on disk, and how something new gets there."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from lemonade_serve import errors
from lemonade_serve.domain.provenance import Source, SourceFile
from lemonade_serve.hub import shelf
from lemonade_serve.hub.catalog import DiskCatalog
from tests.unit.hub.graphs import put, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def catalog(root: Path) -> DiskCatalog:
    return DiskCatalog(root)


def names(catalog: DiskCatalog, cache_dir: Path | None = None) -> list[tuple[str, str]]:
    found = catalog.list(None if cache_dir is None else str(cache_dir))
    return [(info.name, info.dtype) for info in found]


class TestReading:
    def test_a_cache_that_is_not_there_is_empty(self, catalog: DiskCatalog) -> None:
        assert catalog.list() == []

    def test_a_checkpoint_lies_under_its_name_and_dtype(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        path = put(root / "small" / "int4")
        info = catalog.find("small", "auto")
        assert (info.name, info.path, info.dtype) == ("small", path, "int4")
        assert (info.architecture, info.context_length) == ("llama", 2048)
        assert info.bytes == sum(file.stat().st_size for file in path.iterdir())
        assert info.modified_s == int((path / "genai_config.json").stat().st_mtime)

    def test_what_it_will_take_is_told_without_its_kv_cache_and_for_each_token(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        sizes = {"num_hidden_layers": 30, "num_key_value_heads": 3, "head_size": 64}
        put(root / "small" / "int4", decoder=sizes)
        info = catalog.find("small", "auto")
        assert info.kv_bytes_per_token == 2 * 30 * 3 * 64 * 4
        assert info.memory_bytes == 100 * 1024 * 1024 + 2 * info.bytes

    def test_a_name_may_have_one_slash(self, catalog: DiskCatalog, root: Path) -> None:
        put(root / "org" / "small" / "int4")
        assert catalog.find("org/small", "int4").name == "org/small"
        assert names(catalog) == [("org/small", "int4")]

    def test_a_checkpoint_put_there_by_hand_needs_no_dtype_directory(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        put(root / "by-hand", "fp16")
        put(root / "org" / "by-hand", "fp32", file="decoder.onnx")
        assert names(catalog) == [("by-hand", "fp16"), ("org/by-hand", "fp32")]
        assert catalog.find("org/by-hand", "auto").dtype == "fp32"

    def test_the_dtype_is_what_the_matrices_are_and_not_what_the_directory_says(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        put(root / "small" / "int4", "fp16")
        assert catalog.find("small", "auto").dtype == "fp16"
        with pytest.raises(errors.DeviceUnavailable, match="it has: fp16"):
            catalog.find("small", "int4")

    def test_of_several_dtypes_the_one_asked_for_is_found(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        for dtype in ("fp32", "int8", "int4"):
            put(root / "small" / dtype, dtype)
        assert catalog.find("small", "fp32").dtype == "fp32"
        assert catalog.find("small", "auto").dtype == "int4"
        assert names(catalog) == [("small", "fp32"), ("small", "int4"), ("small", "int8")]

    def test_a_model_called_like_a_dtype_is_a_model(self, catalog: DiskCatalog, root: Path) -> None:
        put(root / "int8", "int8")
        assert catalog.find("int8", "auto").name == "int8"

    @pytest.mark.parametrize("name", ["nobody", "org", "small/int4"])
    def test_a_model_that_is_not_there_is_not_found(
        self, catalog: DiskCatalog, root: Path, name: str
    ) -> None:
        put(root / "small" / "int4")
        put(root / "org" / "small" / "int4")
        with pytest.raises(errors.ModelNotFound, match="lemonade-serve list") as raised:
            catalog.find(name, "auto")
        assert raised.value.param == "model"

    @pytest.mark.parametrize(
        "name", ["..", "../cache/small", "small/../small", "/small", ".hidden"]
    )
    def test_a_name_does_not_walk_about(self, catalog: DiskCatalog, root: Path, name: str) -> None:
        put(root / "small")
        with pytest.raises(errors.InvalidRequest, match="cannot name a model"):
            catalog.find(name, "auto")

    def test_entries_that_begin_with_a_dot_are_not_looked_at(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        put(root / ".staging-x" / "int4")
        put(root / "small" / ".old")
        assert catalog.list() == []
        with pytest.raises(errors.ModelNotFound):
            catalog.find("small", "auto")

    def test_what_changed_on_disk_is_read_again(self, catalog: DiskCatalog, root: Path) -> None:
        path = put(root / "small")
        assert catalog.find("small", "auto").context_length == 2048
        config = path / "genai_config.json"
        config.write_text('{"model": {"type": "llama", "context_length": 512}}')
        os.utime(config, ns=(1, 1))
        assert catalog.find("small", "auto").context_length == 512

    def test_what_did_not_change_is_not_read_again(self, catalog: DiskCatalog, root: Path) -> None:
        path = put(root / "small")
        first = catalog.find("small", "auto")
        (path / "model.onnx").unlink()
        assert catalog.find("small", "auto") is first

    def test_what_took_its_place_is_read_though_its_configuration_is_the_same_file(
        self, catalog: DiskCatalog, root: Path, tmp_path: Path
    ) -> None:
        """As of a branch that moved: what did not change is linked from the hub's cache."""
        kept = put(tmp_path / "kept")
        for commit, size in (("1" * 40, 10), ("2" * 40, 20)):
            with catalog.staging() as staged:
                for file in kept.iterdir():
                    (staged / file.name).hardlink_to(file)
                (staged / "model.onnx.data").write_bytes(bytes(size))
                dtype = catalog.attest(staged, pulled_from(commit))
                catalog.publish(staged, "small", dtype)
            assert catalog.find("small", "auto").commit == commit

    def test_what_went_away_is_not_found(self, catalog: DiskCatalog, root: Path) -> None:
        path = put(root / "small")
        catalog.find("small", "auto")
        (path / "genai_config.json").unlink()
        assert catalog.list() == []


def put_senseless_graph(path: Path) -> None:
    """A matrix product that does not say how large it is."""
    node = helper.make_node("MatMulNBits", ["x", "p", "s"], ["y"], domain="com.microsoft")
    write(path / "model.onnx", [node])


BREAKING: dict[str, Callable[[Path], object]] = {
    "no configuration worth the name": lambda path: (path / "genai_config.json").write_text("{"),
    "no context length": lambda path: (path / "genai_config.json").write_text('{"model": {}}'),
    "no graph": lambda path: (path / "model.onnx").unlink(),
    "a graph that is none": lambda path: (path / "model.onnx").write_bytes(b"\xff" * 9),
    "a graph that makes no sense": put_senseless_graph,
}


class TestBroken:
    @pytest.mark.parametrize("breaking", BREAKING)
    def test_a_broken_checkpoint_hides_no_other(
        self, catalog: DiskCatalog, root: Path, breaking: str
    ) -> None:
        put(root / "good")
        put(root / "small" / "fp32", "fp32")
        BREAKING[breaking](put(root / "small" / "int4"))
        assert names(catalog) == [("good", "int4"), ("small", "fp32")]
        assert catalog.find("small", "auto").dtype == "fp32"

    @pytest.mark.parametrize("breaking", BREAKING)
    def test_a_broken_checkpoint_says_what_is_wrong_with_it(
        self, catalog: DiskCatalog, root: Path, breaking: str
    ) -> None:
        BREAKING[breaking](put(root / "small" / "int4"))
        with pytest.raises(errors.ModelLoadError, match="small/int4"):
            catalog.find("small", "auto")

    def test_a_directory_that_cannot_name_a_model_hides_no_other(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        put(root / "good")
        put(root / "my model")
        put(root / "a" / "b" / "c" / "int4")
        assert names(catalog) == [("good", "int4")]


class TestCacheDir:
    def test_a_directory_under_the_root_may_be_named(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        put(root / "team" / "small" / "int4")
        assert names(catalog, root / "team") == [("small", "int4")]
        assert catalog.find("small", "auto", str(root / "team")).name == "small"

    def test_one_checkpoint_has_a_name_under_each_root(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        put(root / "team" / "small" / "int4")
        assert names(catalog) == [("team/small", "int4")]
        assert catalog.find("small", "auto", str(root / "team")).name == "small"
        assert names(catalog) == [("team/small", "int4")]

    def test_a_root_of_the_settings_may_be_named(self, root: Path, tmp_path: Path) -> None:
        put(tmp_path / "other" / "small" / "int4")
        catalog = DiskCatalog(root, [tmp_path / "other"])
        assert catalog.find("small", "auto", str(tmp_path / "other")).name == "small"
        with pytest.raises(errors.ModelNotFound):
            catalog.find("small", "auto")

    @pytest.mark.parametrize(
        "cache_dir",
        [
            *("/", "/etc", "..", "{root}/..", "{root}x", "{root}/a/../.."),
            *("~nobody-at-all/x", "a\0b"),
        ],
    )
    def test_any_other_directory_is_refused(
        self, catalog: DiskCatalog, root: Path, cache_dir: str
    ) -> None:
        root.mkdir()
        for look in (catalog.list, lambda where: catalog.find("small", "auto", where)):
            with pytest.raises(errors.NotAllowed, match="outside") as raised:
                look(cache_dir.format(root=root))
            assert raised.value.param == "cache_dir"

    def test_a_link_out_of_the_root_is_refused(
        self, catalog: DiskCatalog, root: Path, tmp_path: Path
    ) -> None:
        put(tmp_path / "outside" / "small" / "int4")
        root.mkdir()
        (root / "link").symlink_to(tmp_path / "outside")
        with pytest.raises(errors.NotAllowed):
            catalog.find("small", "auto", str(root / "link"))
        with pytest.raises(errors.NotAllowed):
            catalog.find("small", "auto", str(root / "link" / "small" / ".."))

    def test_a_root_that_is_a_link_may_be_named(self, tmp_path: Path) -> None:
        put(tmp_path / "disk" / "small" / "int4")
        (tmp_path / "cache").symlink_to(tmp_path / "disk")
        catalog = DiskCatalog(tmp_path / "cache")
        assert names(catalog, tmp_path / "cache") == names(catalog) == [("small", "int4")]


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def pulled_from(commit: str, files: tuple[SourceFile, ...] = ()) -> Source:
    return Source(
        repository="org/small",
        revision="main",
        commit=commit,
        license=None,
        how="fetched as it is",
        program="this 1.0",
        pulled_s=0,
        files=files,
    )


def cached(hub: Path, commit: str, name: str, digest: str) -> bool:
    """Put a file into the hub's cache; returns whether it was not there."""
    blob = hub / "models--org--small" / "blobs" / digest
    new = not blob.exists()
    pointer = blob.parent.parent / "snapshots" / commit / name
    for path in (blob, pointer):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"x")
    if not pointer.exists():
        pointer.symlink_to(f"../../blobs/{digest}")
    return new


def blobs(hub: Path) -> list[str]:
    return sorted(path.name for path in hub.glob("*/blobs/*"))


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """As another process that is at work in it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class TestStaging:
    def test_what_is_made_appears_under_its_name_and_dtype(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        with catalog.staging() as staged:
            assert list(staged.iterdir()) == []
            put(staged / "x")
            (staged / "x" / "model.onnx").rename(staged / "model.onnx")
            (staged / "x" / "genai_config.json").rename(staged / "genai_config.json")
            assert catalog.list() == []
            path = catalog.publish(staged, "org/small", "int4")
        assert path == root / "org" / "small" / "int4"
        assert catalog.find("org/small", "int4").path == path
        assert entries(root) == ["org"]

    def test_others_may_read_what_is_published(self, catalog: DiskCatalog) -> None:
        with catalog.staging() as staged:
            path = catalog.publish(staged, "small", "int4")
        assert path.stat().st_mode & 0o777 == 0o755

    def test_a_failure_leaves_nothing(self, catalog: DiskCatalog, root: Path) -> None:
        with pytest.raises(RuntimeError), catalog.staging() as staged:
            (staged / "half").write_text("x")
            raise RuntimeError
        assert entries(root) == []

    def test_a_cache_that_cannot_be_written_to_says_so(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        root.write_text("it is a file")
        refused = pytest.raises(errors.JobFailed, match=f"cannot make anything in {root}")
        with refused, catalog.staging():
            pass

    def test_what_is_not_published_is_not_kept(self, catalog: DiskCatalog, root: Path) -> None:
        with catalog.staging() as staged:
            (staged / "half").write_text("x")
        assert entries(root) == []

    def test_what_was_there_before_gives_way(self, catalog: DiskCatalog, root: Path) -> None:
        for content in ("old", "new"):
            with catalog.staging() as staged:
                (staged / content).write_text(content)
                catalog.publish(staged, "small", "int4")
        assert entries(root / "small" / "int4") == ["new"]
        assert entries(root) == ["small"]

    def test_what_was_fetched_for_it_alone_leaves_the_hubs_cache_too(
        self, catalog: DiskCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = tmp_path / "hub"
        monkeypatch.setenv("HF_HUB_CACHE", str(hub))
        for commit, data in (("1" * 40, "a"), ("2" * 40, "b")):
            digests = {"model.onnx.data": data * 64, "tokenizer.json": "c" * 64}
            brought = [cached(hub, commit, name, digest) for name, digest in digests.items()]
            with catalog.staging() as staged:
                put(staged / "x")
                for file in (staged / "x").iterdir():
                    file.rename(staged / file.name)
                said = zip(digests.items(), brought, strict=True)
                files = tuple(
                    SourceFile(path=name, bytes=1, sha256=digest, downloaded=new)
                    for (name, digest), new in said
                )
                dtype = catalog.attest(staged, pulled_from(commit, files))
                catalog.publish(staged, "small", dtype)
        assert blobs(hub) == ["b" * 64, "c" * 64]
        catalog.remove(catalog.find("small", "auto"))
        assert blobs(hub) == []

    def test_the_same_commit_again_leaves_the_hubs_cache_as_it_is(
        self, catalog: DiskCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = tmp_path / "hub"
        monkeypatch.setenv("HF_HUB_CACHE", str(hub))
        for _ in range(2):
            new = cached(hub, "1" * 40, "tokenizer.json", "c" * 64)
            file = SourceFile(path="tokenizer.json", bytes=1, sha256="c" * 64, downloaded=new)
            with catalog.staging() as staged:
                put(staged / "x")
                for path in (staged / "x").iterdir():
                    path.rename(staged / path.name)
                dtype = catalog.attest(staged, pulled_from("1" * 40, (file,)))
                catalog.publish(staged, "small", dtype)
            assert blobs(hub) == ["c" * 64]
        catalog.remove(catalog.find("small", "auto"))
        assert blobs(hub) == []

    def test_a_model_inside_of_another_is_not_lost(self, catalog: DiskCatalog, root: Path) -> None:
        put(root / "small" / "int4" / "fp32", "fp32")
        assert names(catalog) == [("small/int4", "fp32")]
        with catalog.staging() as staged, pytest.raises(errors.JobFailed, match="small/int4"):
            catalog.publish(staged, "small", "int4")
        assert names(catalog) == [("small/int4", "fp32")]

    def test_a_removal_beside_it_takes_no_directory_away(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        with catalog.staging() as staged:
            shelf.put(staged, root / "org" / "small" / "int4")
        assert entries(root / "org" / "small") == ["int4"]

    def test_a_removal_is_not_swept(
        self, catalog: DiskCatalog, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(root / "small" / "int4")
        begun: list[Path] = []
        rmtree = shutil.rmtree

        def slowly(path: Path, *more: Any, **and_more: Any) -> None:
            begun.append(path)
            if len(begun) == 1:
                with DiskCatalog(root).staging():
                    pass
            rmtree(path, *more, **and_more)

        monkeypatch.setattr(shutil, "rmtree", slowly)
        catalog.remove(catalog.find("small", "auto"))
        assert entries(root) == []

    def test_another_dtype_of_the_model_stays(self, catalog: DiskCatalog, root: Path) -> None:
        for dtype in ("int4", "fp32"):
            with catalog.staging() as staged:
                catalog.publish(staged, "small", dtype)
        assert entries(root / "small") == ["fp32", "int4"]

    def test_what_a_killed_process_left_behind_is_swept(
        self, catalog: DiskCatalog, root: Path
    ) -> None:
        abandoned = root / ".staging-killed"
        abandoned.mkdir(parents=True)
        (abandoned / "half").write_text("x")
        with catalog.staging() as staged:
            assert entries(root) == [staged.name]

    def test_what_another_process_works_in_is_kept(self, catalog: DiskCatalog, root: Path) -> None:
        busy = root / ".staging-busy"
        busy.mkdir(parents=True)
        with held(busy), catalog.staging() as staged:
            assert entries(root) == sorted([".staging-busy", staged.name])
            catalog.publish(staged, "small", "int4")
            assert entries(root) == [".staging-busy", "small"]

    def test_two_may_work_at_the_same_time(self, catalog: DiskCatalog, root: Path) -> None:
        with catalog.staging() as first, DiskCatalog(root).staging() as second:
            assert first != second
            assert entries(root) == sorted([first.name, second.name])

    def test_a_name_that_cannot_be_is_refused(self, catalog: DiskCatalog, root: Path) -> None:
        with catalog.staging() as staged, pytest.raises(errors.InvalidRequest):
            catalog.publish(staged, "../x", "int4")
        assert entries(root) == []
        assert entries(root.parent) == [root.name]
