"""What is sent with traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Tracing, read_headers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "headers.toml"


def test_without_a_file_they_are_those_of_the_settings() -> None:
    assert read_headers(Tracing(headers={"a": "b"})) == {"a": "b"}


def test_those_of_the_file_come_to_them(file: Path) -> None:
    file.write_text('Authorization = "Bearer geheim"')
    tracing = Tracing(headers={"a": "b"}, headers_file=str(file))
    assert read_headers(tracing) == {"a": "b", "Authorization": "Bearer geheim"}


def test_a_name_in_both_is_wrong_however_it_is_written(file: Path) -> None:
    file.write_text('AUTHORIZATION = "geheim"')
    with pytest.raises(SettingsError, match=r"authorization is in .* too") as raised:
        read_headers(Tracing(headers={"authorization": "x"}, headers_file=str(file)))
    assert "geheim" not in raised.value.message


@pytest.mark.parametrize(
    "content",
    ["geheim", 'a = "geheim\\n"', "a = 7", '"a b" = "geheim"', 'a = "geheim"\na = "geheim"'],
)
def test_a_file_of_something_else_is_wrong_and_not_quoted(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError, match="takes lines of name") as raised:
        read_headers(Tracing(headers_file=str(file)))
    assert "geheim" not in raised.value.message


def test_a_file_that_is_not_there_is_wrong(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"headers\.toml"):
        read_headers(Tracing(headers_file=str(file)))
