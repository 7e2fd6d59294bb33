"""Files of a repository, from the hub into its cache on this machine.

They come side by side, and go on where another time ended. A file gets its name only when its
digest is the one that the hub said (`blob.py`).
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from huggingface_hub import constants

from lemonade_serve import errors
from lemonade_serve.importers.blob import Stopped, complete, discard
from lemonade_serve.importers.hub_cache import HubCache, expected
from lemonade_serve.protocol.jobs import Fetched, FetchFiles, RepositoryFile

Progress = Callable[[str, float], None]

_STEP: Final = 0.002  # the smallest progress worth a message


def fetch(job: FetchFiles, progress: Progress, root: str = constants.HF_HUB_CACHE) -> Fetched:
    """All files of a job. Raises DiskFull, HubError, ModelNotFound, NotAllowed, and JobFailed for
    a file whose digest is not the right one."""
    fetching = _Fetch(job, progress, Path(root))
    try:
        return fetching.run()
    except OSError as error:
        if full := errors.DiskFull.by(error, Path(root)):
            fetching.discard()  # or the disk would stay full
            raise full from error
        raise errors.JobFailed(f"cannot keep {job.repository}: {error}") from error


class _Fetch:
    def __init__(self, job: FetchFiles, progress: Progress, root: Path) -> None:
        self._job = job
        self._report = progress
        self._root = root
        self._cache = HubCache(root, job.repository)
        self._total = max(1, sum(file.size for file in job.files))
        self._done = 0
        self._told = 0.0
        self._counting = threading.Lock()
        self._stopped = threading.Event()
        self._brought: list[RepositoryFile] = []

    def run(self) -> Fetched:
        for file in self._job.files:
            _check_path(file.path)
        self._cache.blobs.mkdir(parents=True, exist_ok=True)
        self._check_room()
        self._report("downloading", 0.0)
        with ThreadPoolExecutor(self._job.at_once) as threads:
            downloaded = _results([threads.submit(self._fetch, f) for f in self._job.files])
        pointers = [self._cache.point(self._job.commit, file) for file in self._job.files]
        if self._job.into:
            self._report("publishing", 1.0)
            self._place_all(pointers)
        with suppress(OSError):  # a cache that has all of it may belong to somebody else
            self._cache.refer(self._job.revision, self._job.commit)
        digests = [
            file.sha256 or _sha256(pointer)
            for file, pointer in zip(self._job.files, pointers, strict=True)
        ]
        brought = {expected(f) for f, new in zip(self._job.files, downloaded, strict=True) if new}
        new = tuple(expected(file) in brought for file in self._job.files)
        return Fetched(tuple(map(str, pointers)), tuple(digests), new)

    def discard(self) -> None:
        """Remove what this has brought and nobody knows of yet."""
        for file in self._job.files:
            discard(file, self._cache)
        for file in self._brought:
            if not self._cache.pointer(self._job.commit, file).exists():
                self._cache.blob(file).unlink(missing_ok=True)

    def _fetch(self, file: RepositoryFile) -> bool:
        """Whether it had to be downloaded."""
        try:
            if self._stopped.is_set():
                raise Stopped
            if not expected(file):  # offline, in a cache without links: nobody can say
                return False
            new = complete(file, self._cache, self._job, told=self._advance, stopped=self._stopped)
            if new:
                self._brought.append(file)
            return new
        except BaseException:
            self._stopped.set()
            raise

    def _advance(self, count: int) -> None:
        with self._counting:
            self._done += count
            fraction = min(max(self._done, 0) / self._total, 1.0)
            if fraction >= self._told + _STEP:
                self._told = fraction
                self._report("downloading", fraction)

    def _check_room(self) -> None:
        """Before the first byte: is there room for all of them?"""
        lacking = sum(self._cache.lacking(self._job.commit, file) for file in self._job.files)
        self._check_disk(self._root, lacking)
        if self._job.into and Path(self._job.into).stat().st_dev != self._root.stat().st_dev:
            self._check_disk(Path(self._job.into), self._total)

    def _check_disk(self, path: Path, wanted: int) -> None:
        free = shutil.disk_usage(path).free
        if wanted and free - wanted < self._job.keep_free:
            raise errors.DiskFull(
                f"{self._job.repository} needs {wanted / 1e9:.2f} GB on the disk of {path}, which "
                f"has {free / 1e9:.2f} GB free, and {self._job.keep_free / 1e9:.2f} GB stay free "
                "(hub.min_free_bytes)"
            )

    def _place_all(self, pointers: Sequence[Path]) -> None:
        try:
            for file, pointer in zip(self._job.files, pointers, strict=True):
                self._place(file, pointer)
        except OSError as error:
            if full := errors.DiskFull.by(error, Path(self._job.into).parent):
                raise full from error
            raise

    def _place(self, file: RepositoryFile, pointer: Path) -> None:
        """In the job's directory: the same bytes on the disk, where that can be."""
        target = Path(self._job.into) / PurePosixPath(file.path).relative_to(self._job.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        blob = pointer.resolve()
        try:
            target.hardlink_to(blob)
        except OSError:  # another disk, or a file of somebody else's
            shutil.copyfile(blob, target)


def _results(futures: Sequence[Future[bool]]) -> list[bool]:
    """Raises the failure that stopped the others."""
    failures = [error for future in futures if (error := future.exception())]
    for error in failures:
        if not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]


def _check_path(path: str) -> None:
    """A repository must not write where it likes."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or any(part in ("..", ".") for part in parts)
        or "\0" in path
    ):
        raise errors.JobFailed(f"{path!r} is no path inside a repository")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
