"""Taking a checkpoint off the disk, and what was fetched for it out of the hub's cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from lemonade_serve.domain.provenance import Source
from lemonade_serve.hub import provenance

STAGING = ".staging-"
"""What begins so is removed by whoever makes a checkpoint next, if nobody holds it."""


def remove(path: Path, root: Path, grave: Path) -> None:
    """The directory is gone at once, and its files then; so are directories above it, below
    `root`, that nothing is left in. A removal that is killed in between is finished later, by
    whoever sweeps `grave`."""
    path.rename(grave / "removed")
    shutil.rmtree(grave / "removed")
    for parent in path.relative_to(root).parents:
        with suppress(OSError):  # it is not empty, or it is the root
            if parent != Path():
                (root / parent).rmdir()


def superseded(staged: Path, target: Path) -> Source | None:
    """What may be forgotten once `staged` has taken the place of `target`. What was downloaded for
    that one, and is in this one too, goes with this one from now on."""
    old, new = provenance.read(target).source, provenance.read(staged).source
    if not old or not new or new.repository != old.repository:
        return old
    ours = {file.sha256 for file in old.files if file.downloaded}
    files = tuple(
        msgspec.structs.replace(file, downloaded=file.downloaded or file.sha256 in ours)
        for file in new.files
    )
    provenance.write(staged, dtype="", source=msgspec.structs.replace(new, files=files))
    kept = {file.path for file in files if new.commit == old.commit}
    rest = tuple(file for file in old.files if file.path not in kept)
    return msgspec.structs.replace(old, files=rest)


def forget(source: Source, cache: Path) -> None:
    """Take out of the hub's cache what was downloaded for this checkpoint, unless something else
    there points to it. What was there before stays: another program wanted it. `source` may say
    what it likes: nothing outside of its snapshot is touched."""
    repository = (cache / f"models--{source.repository.replace('/', '--')}").resolve()
    snapshots = repository / "snapshots"
    snapshot = snapshots / source.commit
    if snapshot.resolve().parent != snapshots:
        return
    blobs: list[Path] = []
    for file in source.files:
        pointer = snapshot / file.path
        inside = pointer.parent.resolve().is_relative_to(snapshot)
        if file.downloaded and inside and pointer.is_file():
            if blob := _blob(pointer, repository / "blobs"):
                blobs.append(blob)
            pointer.unlink()
    held = {_identity(path) for path in snapshots.rglob("*")}
    for blob in blobs:
        if _identity(blob) not in held:
            blob.unlink(missing_ok=True)
    _remove_empty(sorted(snapshot.rglob("*"), reverse=True))
    _remove_empty([snapshot])
    if not snapshot.exists():
        _remove_mentions(repository, source.commit)


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where it is, by the hub's own variables; one that is empty is said, as the hub has it."""
    caches = environment.get("XDG_CACHE_HOME", "~/.cache")
    home = environment.get("HF_HOME", str(Path(caches) / "huggingface"))
    said = environment.get("HUGGINGFACE_HUB_CACHE", str(Path(home) / "hub"))
    said = environment.get("HF_HUB_CACHE", said)
    return Path(os.path.expandvars(said)).expanduser()


def _blob(pointer: Path, blobs: Path) -> Path | None:
    """The repository's own, which may be a link itself, to what several share."""
    if pointer.is_symlink():
        blob = Path(os.path.normpath(pointer.parent / pointer.readlink()))
        return blob if blob.parent == blobs else None
    return next((blob for blob in blobs.glob("*") if blob.samefile(pointer)), None)


def _identity(path: Path) -> tuple[int, int] | None:
    """Of the file that it is, or leads to; others come and go."""
    try:
        at = path.stat()
    except OSError:
        return None
    return at.st_dev, at.st_ino


def _remove_mentions(repository: Path, commit: str) -> None:
    """Of a commit that there is no snapshot of any more, or the hub's own tools would call the
    repository broken; with the last file goes all of it."""
    for ref in [path for path in (repository / "refs").rglob("*") if path.is_file()]:
        if ref.read_text("utf-8", "replace").strip() == commit:
            ref.unlink()
    (repository / "trees" / f"{commit}.json").unlink(missing_ok=True)
    shutil.rmtree(repository / ".no_exist" / commit, ignore_errors=True)
    if not any(path.is_symlink() or not path.is_dir() for path in repository.rglob("*")):
        shutil.rmtree(repository, ignore_errors=True)


def _remove_empty(directories: Iterable[Path]) -> None:
    for directory in directories:
        with suppress(OSError):
            directory.rmdir()
