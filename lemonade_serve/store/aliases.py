"""The aliases, in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lemonade_serve.store.kept import KeptFile

FILE = "aliases.json"
"""In the state directory."""


class FileAliasStore:
    """An `AliasStore` in a JSON file. A `save` that returned survives a power cut."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path, dict[str, str], "a table of aliases")

    def load(self) -> Mapping[str, str]:
        return self._file.load() or {}

    def save(self, aliases: Mapping[str, str]) -> None:
        self._file.save(dict(sorted(aliases.items())))
