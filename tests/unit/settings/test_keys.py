"""API keys: where they come from, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Settings, read_api_keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_no_keys_are_none() -> None:
    assert read_api_keys(Settings()) == {}


def test_the_settings_and_the_file_are_taken_together(file: Path) -> None:
    file.write_text('bob = "b"\n"org:carol.x" = "c"\n')
    settings = Settings(api_keys={"alice": "a"}, api_keys_file=str(file))
    assert read_api_keys(settings) == {"alice": "a", "bob": "b", "org:carol.x": "c"}


def test_the_file_may_be_in_somebodys_home(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text('bob = "b"\n')
    assert read_api_keys(Settings(api_keys_file="~/keys.toml")) == {"bob": "b"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('bob = "geheim"\nbob = "other"', "each name once"),
        ("bob = geheim", "at line 1"),
        ('"no name" = "geheim"', "entry 1 does not begin with a client's name"),
        ('bob = "b"\n"geheim!" = "carol"', "entry 2 does not begin with a client's name"),
        (f'{"x" * 65} = "geheim"', "entry 1"),
        ('carol.x = "geheim"', "the key of carol is no string; a name with a dot"),
        ("bob = 7", "the key of bob is no string"),
        ('bob = ""', "the key of bob is empty"),
        ('bob = "geheim "', "the key of bob has a character in it that cannot be sent"),
        ('bob = "geheim\\n"', "the key of bob has a character in it that cannot be sent"),
        ('bob = "geheim é"', "the key of bob has a character in it that cannot be sent"),
        ('bob = "ge\\u0007heim"', "the key of bob has a character in it that cannot be sent"),
        ('bob = "geheim"\ncarol = "geheim"', "bob and carol have the same key"),
        ('bob = "alice\'s"', "alice and bob have the same key"),
        ('alice = "geheim"', "alice is in "),
    ],
)
def test_what_is_wrong_is_said_without_the_key(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    settings = Settings(api_keys={"alice": "alice's"}, api_keys_file=str(file))
    with pytest.raises(SettingsError) as raised:
        read_api_keys(settings)
    assert said in raised.value.message
    assert "geheim" not in raised.value.message
    assert "alice's" not in raised.value.message


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    with pytest.raises(SettingsError, match=f"api_keys_file: {file}: .*No such file"):
        read_api_keys(Settings(api_keys_file=str(file)))
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=f"api_keys_file: {file}: "):
        read_api_keys(Settings(api_keys_file=str(file)))


def test_two_clients_of_the_settings_do_not_share_a_key_either() -> None:
    with pytest.raises(SettingsError, match="alice and bob have the same key"):
        read_api_keys(Settings(api_keys={"alice": "x", "bob": "x"}))
