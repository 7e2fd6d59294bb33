"""Where a checkpoint came from, as it is written beside it."""

from __future__ import annotations

import msgspec


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the repository. `downloaded`: it was not in the hub's cache before."""

    path: str
    bytes: int
    sha256: str
    downloaded: bool


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled. `revision` is what was asked for, `commit` what that was then; `how` says
    what became of the files, `program` what did it."""

    repository: str
    revision: str
    commit: str
    license: str | None
    how: str
    program: str
    pulled_s: int
    """Unix time."""
    files: tuple[SourceFile, ...]


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """All that may be known; of a directory that was copied by hand it is nothing. What an import
    did is in `source_file` and what follows it (docs/import.md)."""

    dtype: str | None = None
    license: str | None = None
    source: Source | None = None
    importer: str | None = None
    source_file: str | None = None
    source_sha256: str | None = None
    lossless: int | None = None
    requantised: int | None = None
