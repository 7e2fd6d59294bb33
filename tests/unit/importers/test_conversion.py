"""What is decided of a conversion, without anything that converts."""

from __future__ import annotations

import errno
import math
import shutil
from pathlib import Path

import pytest

from lemonade_serve.errors import DiskFull, JobFailed, LemonadeError, UnsupportedModel
from lemonade_serve.importers import conversion
from lemonade_serve.importers.conversion import convert, judge
from lemonade_serve.importers.exporter import find_exporter
from lemonade_serve.importers.scores import Quality
from lemonade_serve.protocol.jobs import ConvertModel, Exporter, Recipe
from tests.unit.importers.test_source import put


def job(source: Path, into: Path, dtype: str = "int4", keep_free: int = 0) -> ConvertModel:
    recipe = Recipe(dtype, "cpu", "default", 32)
    return ConvertModel(str(source), str(into), recipe, 1, 1 << 40, keep_free, 1.5)


def found(perplexity: float, agreement: float = 1.0) -> Quality:
    return Quality(
        positions=100, perplexity=perplexity, reference_perplexity=10.0, agreement=agreement
    )


def test_what_is_near_enough_is_good() -> None:
    judge(found(15.0, agreement=0.5), job(Path(), Path()))
    judge(found(10.0, agreement=0.95), job(Path(), Path(), "fp32"))


@pytest.mark.parametrize("perplexity", [15.1, math.inf, math.nan])
def test_what_is_far_or_no_number_is_not(perplexity: float) -> None:
    with pytest.raises(JobFailed, match=r"convert\.max_perplexity_ratio"):
        judge(found(perplexity), job(Path(), Path()))


def test_where_nothing_is_rounded_both_say_the_same() -> None:
    with pytest.raises(JobFailed, match="not this model"):
        judge(found(10.0, agreement=0.94), job(Path(), Path(), "fp32"))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Exporter((), ("torch",))
    monkeypatch.setattr(conversion, "find_exporter", lambda **_: lacking)
    with pytest.raises(UnsupportedModel, match="torch is missing"):
        convert(job(put(tmp_path), tmp_path), lambda stage, done: None)


def test_room_on_the_disk_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "find_exporter", lambda **_: Exporter((), ()))
    free = shutil.disk_usage(tmp_path).total
    with pytest.raises(DiskFull, match=r"hub\.min_free_bytes"):
        convert(job(put(tmp_path), tmp_path, keep_free=free), lambda stage, done: None)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryError(), JobFailed, r"1024\.0 GiB of convert\.memory_limit"),
        (RuntimeError("std::bad_alloc"), JobFailed, r"convert\.memory_limit"),
        (OSError(errno.ENOSPC, "full"), DiskFull, "no room"),
        (KeyError("rope"), JobFailed, "the conversion failed: KeyError: 'rope'"),
    ],
)
def test_what_libraries_raise_is_told_in_our_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[LemonadeError],
    says: str,
) -> None:
    def fail(**_: object) -> Exporter:
        raise error

    monkeypatch.setattr(conversion, "find_exporter", fail)
    with pytest.raises(kind, match=says):
        convert(job(put(tmp_path), tmp_path), lambda stage, done: None)


def test_the_exporter_is_found_without_an_import() -> None:
    exporter = find_exporter()
    named = {program.split()[0] for program in exporter.programs} | set(exporter.missing)
    assert named == {"torch", "transformers", "onnx-ir", "onnxruntime-genai"}
