"""The pins, in a file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from lemonade_serve.domain.ports import Pin
from lemonade_serve.errors import StoreUnavailable


class FilePinStore:
    """A `PinStore` in a JSON file. A `save` that returned survives a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._staged = path.with_name(f".{path.name}.new")

    def load(self) -> frozenset[Pin]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=frozenset[Pin])
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreUnavailable(f"{self._path} is not a list of pins: {error}") from error

    def save(self, pins: frozenset[Pin]) -> None:
        text = msgspec.json.format(msgspec.json.encode(sorted(pins)))
        try:
            _write_durably(self._staged, text + b"\n")
            self._staged.replace(self._path)
            _sync_directory(self._path.parent)
        except OSError as error:
            with suppress(OSError):
                self._staged.unlink()
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
