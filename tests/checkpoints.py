"""More checkpoints than there are: the real one under other names."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import MODEL

CONFIG = "genai_config.json"


def original(cache_dir: Path) -> Path:
    """The checkpoint that the fixture `cache_dir` has."""
    return cache_dir / MODEL / "int8"


def link(source: Path, target: Path, replaced: dict[str, str] | None = None) -> Path:
    """A checkpoint at `target` whose files are those of `source`, but for those that are replaced;
    returns `target`."""
    replaced = replaced or {}
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in replaced:
            (target / file.name).symlink_to(file.resolve())
    for name, content in replaced.items():
        (target / name).write_text(content)
    return target
