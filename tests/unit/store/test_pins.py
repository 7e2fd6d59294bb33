"""The pins, in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.ports import Pin
from lemonade_serve.store.pins import FilePinStore

PINS = frozenset(
    {
        Pin(model="org/small", device="cpu", dtype="int4"),
        Pin(model="é", device="npu", dtype="int8"),
    }
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins.json"


def test_there_are_none_at_first(path: Path) -> None:
    assert FilePinStore(path).load() == frozenset()


@pytest.mark.parametrize("pins", [PINS, frozenset()])
def test_what_was_saved_is_there_again(pins: frozenset[Pin], path: Path) -> None:
    FilePinStore(path).save(PINS)
    FilePinStore(path).save(pins)
    assert FilePinStore(path).load() == pins
    assert list(path.parent.iterdir()) == [path]


def test_the_file_can_be_read_by_people(path: Path) -> None:
    FilePinStore(path).save(PINS)
    assert path.read_text().count("\n") > len(PINS)
    first, _ = json.loads(path.read_text())
    assert first == {"model": "org/small", "device": "cpu", "dtype": "int4"}


@pytest.mark.parametrize(
    "content", [b"", b"[", b'{"model": "small"}', b'[{"model": "small"}]', b'["\xff"]', b"\0" * 99]
)
def test_a_file_that_is_no_list_of_pins_is_named(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(errors.StoreUnavailable, match=r"pins\.json is not a list of pins: "):
        FilePinStore(path).load()
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(errors.StoreUnavailable, match=r"pins\.json: Is a directory"):
        FilePinStore(path).load()


def test_a_save_that_fails_leaves_nothing_behind(path: Path) -> None:
    (path / "full").mkdir(parents=True)
    with pytest.raises(errors.StoreUnavailable, match=r"pins\.json: "):
        FilePinStore(path).save(PINS)
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_that_is_gone_is_unavailable(path: Path) -> None:
    with pytest.raises(errors.StoreUnavailable, match=r"pins\.json: No such file"):
        FilePinStore(path / "pins.json").save(PINS)
