"""`provenance.json`, beside a checkpoint's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lemonade_serve.domain.provenance import Provenance, Source

NAME = "provenance.json"


def read(checkpoint: Path) -> Provenance:
    """What it says; nothing where there is none, or one that is not ours."""
    try:
        return msgspec.json.decode((checkpoint / NAME).read_bytes(), type=Provenance)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Provenance()


def written_ns(checkpoint: Path) -> int:
    """When, by the file's own time; 0 where there is none."""
    try:
        return (checkpoint / NAME).stat().st_mtime_ns
    except OSError:
        return 0


def write(checkpoint: Path, *, dtype: str, source: Source) -> None:
    """Add what was pulled to what an import wrote, if one did; a dtype that is known stays."""
    path = checkpoint / NAME
    known: dict[str, Any] = {}
    if path.exists():
        known = msgspec.json.decode(path.read_bytes())
    known = {"dtype": dtype, "license": source.license, **known, "source": source}
    text = msgspec.json.format(msgspec.json.encode(known), indent=2)
    staged = checkpoint / f".{NAME}"  # what is there may be a link into another program's cache
    staged.write_bytes(text + b"\n")
    staged.replace(path)
