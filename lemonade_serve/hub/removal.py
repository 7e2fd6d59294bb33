"""Taking a checkpoint off the disk, and what was fetched for it out of the hub's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lemonade_serve.domain.provenance import Source

STAGING = ".staging-"
"""What begins so is removed by whoever makes a checkpoint next, if nobody holds it."""


def remove(path: Path, root: Path) -> None:
    """The directory is gone at once, and its files then; so are directories above it, below
    `root`, that nothing is left in. A removal that is killed in between is finished later."""
    grave = Path(tempfile.mkdtemp(prefix=STAGING, dir=root))
    path.rename(grave / "removed")
    shutil.rmtree(grave)
    for parent in path.relative_to(root).parents:
        with suppress(OSError):  # it is not empty, or it is the root
            if parent != Path():
                (root / parent).rmdir()


def forget(source: Source, cache: Path) -> None:
    """Take out of the hub's cache what was downloaded for this checkpoint, unless something else
    there points to it. What was there before stays: another program wanted it."""
    repository = cache / f"models--{source.repository.replace('/', '--')}"
    snapshot = repository / "snapshots" / source.commit
    for file in source.files:
        pointer = snapshot / file.path
        if not file.downloaded or not pointer.is_file():
            continue
        blob = pointer.resolve()
        pointer.unlink()
        if blob != pointer and not _is_pointed_to(blob, repository / "snapshots"):
            blob.unlink(missing_ok=True)
    _remove_empty(sorted(snapshot.rglob("*"), reverse=True))
    _remove_empty([snapshot])


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where it is, by the hub's own variables."""
    said = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if said:
        return Path(os.path.expandvars(said)).expanduser()
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or f"{caches}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def _is_pointed_to(blob: Path, snapshots: Path) -> bool:
    return any(path.is_symlink() and path.resolve() == blob for path in snapshots.rglob("*"))


def _remove_empty(directories: Iterable[Path]) -> None:
    for directory in directories:
        with suppress(OSError):
            directory.rmdir()
