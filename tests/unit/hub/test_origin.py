"""Where a GGUF file comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lemonade_serve.errors import InvalidRequest, JobFailed
from lemonade_serve.hub.origin import find_origin
from tests.unit.hub.site import Page, serving


def _silent(stage: str, done: float) -> None:
    pass


def test_a_file_of_this_machine_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    origin = find_origin("demo")  # a file of that name comes first
    assert origin.file_name == "demo"
    assert origin.bring(tmp_path / "scratch", _silent) == tmp_path / "demo"


def test_demo_is_the_file_in_the_wheel() -> None:
    origin = find_origin("demo")
    assert origin.file_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert str(origin) == "SmolLM2-135M-Instruct.Q4_1.gguf out of the package index"


def test_an_address_is_downloaded_under_its_own_name(tmp_path: Path) -> None:
    content = b"GGUF" * 100
    digest = hashlib.sha256(content).hexdigest()
    shares: list[float] = []
    with serving({"/a/Tiny%20Q8_0.gguf": Page(content)}) as site:
        origin = find_origin(f"{site.url}/a/Tiny%20Q8_0.gguf?token=s3cret#sha256={digest.upper()}")
        assert "s3cret" not in str(origin)
        file = origin.bring(tmp_path, lambda stage, done: shares.append(done))
    assert (file.name, file.read_bytes()) == ("Tiny Q8_0.gguf", content)
    assert origin.file_name == file.name
    assert shares == [1.0]


def test_a_download_that_is_wrong_or_cut_is_an_error_without_secrets(tmp_path: Path) -> None:
    pages = {"/a.gguf": Page(b"GGUF"), "/cut.gguf": Page(b"GG", cut=True)}
    with serving(pages) as site:
        for path, said in {
            f"a.gguf?t=s3cret#sha256={'0' * 64}": "SHA-256 is .*, and should be 0000",
            "cut.gguf?t=s3cret": "could not download .*/cut.gguf: ",
            "absent.gguf?t=s3cret": "/absent.gguf: 404 Not Found",
        }.items():
            with pytest.raises(JobFailed, match=said) as error:
                find_origin(f"{site.url}/{path}").bring(tmp_path, _silent)
            assert "s3cret" not in error.value.message


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("absent.gguf", "there is no file 'absent.gguf'.*`demo`"),
        ("ftp://host/a.gguf", "https:// address"),
        ("https://host/", "https://host/ names no file"),
        ("https://host/a.gguf#md5=1", "behind the #.*may stand sha256="),
    ],
)
def test_what_is_no_source_says_what_one_is(source: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        find_origin(source)
