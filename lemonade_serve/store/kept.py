"""A value in a file, whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from lemonade_serve.errors import StoreUnavailable

_Kind = TypeVar("_Kind")


class KeptFile(Generic[_Kind]):
    """JSON. A `save` that returned survives a power cut."""

    def __init__(self, path: Path, kind: type[_Kind], what: str) -> None:
        """`what` the file should be, in words."""
        self._path = path
        self._kind = kind
        self._what = what
        self._staged = path.with_name(f".{path.name}.new")

    def load(self) -> _Kind | None:
        """None where nothing was ever saved. Raises StoreUnavailable."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=self._kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreUnavailable(f"{self._path} is not {self._what}: {error}") from error

    def save(self, value: object) -> None:
        """Raises StoreUnavailable."""
        text = msgspec.json.format(msgspec.json.encode(value))
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
