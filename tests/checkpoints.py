"""More checkpoints than there are: the real one under other names, and with other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.daemon import MODEL

CONFIG = "genai_config.json"


def original(cache_dir: Path) -> Path:
    """The checkpoint that the fixture `cache_dir` has."""
    return cache_dir / MODEL / "int8"


def link(source: Path, target: Path, replaced: Mapping[str, bytes | None] | None = None) -> Path:
    """A checkpoint at `target` whose files are those of `source`, but for those that are replaced,
    or with None left out; returns `target`. The links are hard, so that it takes next to no disk:
    ONNX Runtime refuses soft ones beside a file that is none."""
    replaced = replaced or {}
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in replaced:
            (target / file.name).hardlink_to(file.resolve())
    for name, content in replaced.items():
        if content is not None:
            (target / name).write_bytes(content)
    return target


def config(source: Path, *, context_length: int | None = None, **model: Any) -> dict[str, bytes]:
    """What `link` may replace: a configuration with other values in its `model`."""
    said = json.loads((source / CONFIG).read_bytes())
    said["model"].update(model)
    if context_length is not None:
        said["model"]["context_length"] = said["search"]["max_length"] = context_length
    return {CONFIG: json.dumps(said).encode()}
