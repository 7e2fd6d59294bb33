"""The pins, in a file."""

from __future__ import annotations

from pathlib import Path

from lemonade_serve.domain.ports import Pin
from lemonade_serve.store.kept import KeptFile

FILE = "pins.json"
"""In the state directory."""


class FilePinStore:
    """A `PinStore` in a JSON file. A `save` that returned survives a power cut."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path, frozenset[Pin], "a list of pins")

    def load(self) -> frozenset[Pin]:
        return self._file.load() or frozenset()

    def save(self, pins: frozenset[Pin]) -> None:
        self._file.save(sorted(pins))
