"""The hub's own cache on this machine, shared with every other program that uses it.

Its layout is the hub's: `models--ORG--NAME/blobs/DIGEST` has the contents,
`snapshots/COMMIT/PATH` points to them, `refs/NAME` says which commit a branch or tag was.
Nothing gets a place there that is not whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from huggingface_hub import constants

from lemonade_serve.protocol.jobs import Repository, RepositoryFile

COMMIT = re.compile(r"[0-9a-f]{40}")

_PARTIAL = ".lemonade.incomplete"
"""The hub's own tools know by the end of its name that it may be removed."""
_PIECE_BYTES = 1 << 20


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def new_digest(file: RepositoryFile) -> Digest:
    """One that ends in the file's own digest once it has seen all of its content."""
    if file.sha256:
        return hashlib.sha256()
    header = f"blob {file.size}\0".encode()
    return hashlib.sha1(header, usedforsecurity=False)


def expected(file: RepositoryFile) -> str:
    """What its digest must be; "" where nobody said."""
    return file.sha256 or file.git


class HubCache:
    """One repository's part of it."""

    def __init__(self, root: Path, repository: str) -> None:
        self.path = root / f"models--{repository.replace('/', '--')}"
        self.blobs = self.path / "blobs"
        self._repository = repository

    def blob(self, file: RepositoryFile) -> Path:
        return self.blobs / expected(file)

    def partial(self, file: RepositoryFile) -> Path:
        """Where its bytes are gathered."""
        blob = self.blob(file)
        return blob.with_name(blob.name + _PARTIAL)

    def lacking(self, commit: str, file: RepositoryFile) -> int:
        """How many bytes of it are not here yet."""
        if not expected(file):
            return 0
        whole = (self.pointer(commit, file), self.blob(file))
        if any(_size(path) == file.size for path in whole):
            return 0
        return max(0, file.size - _size(self.partial(file)))

    def pointer(self, commit: str, file: RepositoryFile) -> Path:
        return self.path / "snapshots" / commit / file.path

    def point(self, commit: str, file: RepositoryFile) -> Path:
        """Give a blob that is there its name at a commit."""
        pointer, blob = self.pointer(commit, file), self.blob(file)
        if not expected(file) or is_own(pointer) or (pointer.exists() and pointer.samefile(blob)):
            return pointer
        if not blob.exists():
            raise FileNotFoundError(f"{blob} was removed meanwhile")
        pointer.parent.mkdir(parents=True, exist_ok=True)
        staged = pointer.with_name(f".{secrets.token_hex(4)}")
        try:
            _link(staged, blob)
        except OSError:  # a file system without links of any kind
            blob.replace(staged)
        staged.replace(pointer)
        return pointer

    def refer(self, revision: str, commit: str) -> None:
        """Note which commit a branch or a tag is; once there is a snapshot of it, or the hub's own
        tools find the cache broken."""
        ref = self.path / "refs" / revision
        if (
            not revision
            or COMMIT.fullmatch(revision)
            or (ref.exists() and ref.read_text() == commit)
        ):
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        staged = ref.with_name(f".{secrets.token_hex(4)}")
        staged.write_text(commit)
        staged.replace(ref)

    def known(self, revision: str) -> Repository | None:
        """What is here of a revision, for those who cannot ask the hub; None: nothing."""
        commit = revision
        if not COMMIT.fullmatch(revision):
            try:
                commit = (self.path / "refs" / revision).read_text().strip()
            except OSError:
                return None
        files = tuple(self._files(self.path / "snapshots" / commit))
        return Repository(self._repository, revision, commit, files) if files else None

    def _files(self, snapshot: Path) -> Iterator[RepositoryFile]:
        for path in sorted(snapshot.rglob("*")):
            if path.is_file():
                # a blob may be a link itself, to what several repositories share
                digest = path.readlink().name if path.is_symlink() else ""
                yield RepositoryFile(
                    path.relative_to(snapshot).as_posix(),
                    path.stat().st_size,
                    sha256=digest if re.fullmatch("[0-9a-f]{64}", digest) else "",
                    git=digest if COMMIT.fullmatch(digest) else "",
                )


def is_own(pointer: Path) -> bool:
    """Whether it is no link to a blob, but the file: so it is where there are no links."""
    return pointer.is_file() and not pointer.is_symlink()


def _link(path: Path, blob: Path) -> None:
    if not constants.HF_HUB_DISABLE_SYMLINKS:
        with suppress(OSError):
            path.symlink_to(os.path.relpath(blob, path.parent))
            return
    path.hardlink_to(blob)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def digest_of(path: Path, file: RepositoryFile, told: Callable[[int], None]) -> str:
    """Of what is in `path`, which should be the file. `told` gets the bytes as they are read."""
    digest = new_digest(file)
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            told(len(piece))
    return digest.hexdigest()
