"""One file of a repository: its bytes are gathered beside the hub's cache's others, under a lock.

Two who want the same file fetch it once; a process that is killed leaves what it has to the next
one, which goes on from there.
"""

from __future__ import annotations

import fcntl
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx2
from huggingface_hub import constants

from lemonade_serve import errors
from lemonade_serve.importers.hub import TryAgain, check, explained, headers, pause, session
from lemonade_serve.importers.hub_cache import HubCache, digest_of, expected, is_own
from lemonade_serve.protocol.jobs import FetchFiles, RepositoryFile

_CONNECT_TIMEOUT_S = 10.0

Told = Callable[[int], None]
"""Takes how many more bytes there are; below 0, when some were for nothing."""


class Stopped(Exception):
    """Another file failed: this one is not wanted any more."""


def complete(
    file: RepositoryFile, cache: HubCache, job: FetchFiles, *, told: Told, stopped: threading.Event
) -> bool:
    """See to it that the hub's cache has the file, and that it is the right one; returns whether
    it had to be downloaded."""
    if _is_here(file, cache, job.commit, told):  # so a cache that is only read will do
        return False
    with _locked(cache.partial(file)) as partial:
        if _is_here(file, cache, job.commit, told):
            cache.partial(file).unlink()
            return False
        try:
            _Download(file, job, partial, told, stopped).run()
            partial.flush()
            os.fsync(partial.fileno())
        except errors.JobFailed:
            cache.partial(file).unlink()  # what it has is of no use to anybody
            raise
        cache.partial(file).replace(cache.blob(file))
        return True


def discard(file: RepositoryFile, cache: HubCache) -> None:
    """Remove what there is of it, if nobody is at it."""
    with suppress(OSError), cache.partial(file).open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cache.partial(file).unlink()


def _is_here(file: RepositoryFile, cache: HubCache, commit: str, told: Told) -> bool:
    pointer = cache.pointer(commit, file)
    if is_own(pointer):
        if _is_whole(pointer, file, told):
            return True
        pointer.unlink()
    return _is_whole(cache.blob(file), file, told)


def _is_whole(blob: Path, file: RepositoryFile, told: Told) -> bool:
    if not blob.exists() or blob.stat().st_size != file.size:
        return False
    if digest_of(blob, file, told) == expected(file):
        return True
    told(-file.size)
    return False


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file of that name, open at its end; nobody else has it so."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if _is_at(path, stream):
                yield stream
                return


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """It may have been given its name, or removed, while its lock was waited for."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


class _Download:
    def __init__(
        self,
        file: RepositoryFile,
        job: FetchFiles,
        partial: BinaryIO,
        told: Told,
        stopped: threading.Event,
    ) -> None:
        self._file = file
        self._job = job
        self._partial = partial
        self._told = told
        self._stopped = stopped
        path, commit = quote(file.path), quote(job.commit, safe="")
        self._url = f"{constants.ENDPOINT}/{job.repository}/resolve/{commit}/{path}"
        self._headers = headers()

    def run(self) -> None:
        """Until all bytes are there, and right. Raises JobFailed if they are not."""
        begun = self._size()
        self._told(begun)
        self._gather()
        if begun and not self._is_right():  # perhaps what another time left was of no use
            self._start_again()
            self._gather()
        if not self._is_right():
            raise errors.JobFailed(
                f"{self._file.path} of {self._job.repository} is not what the hub says it is: its "
                f"digest is not {expected(self._file)}"
            )

    def _gather(self) -> None:
        failures = 0
        while (at := self._size()) < self._file.size:
            if self._stopped.is_set():
                raise Stopped
            try:
                explained(functools.partial(self._read_from, at))
            except TryAgain as error:
                failures = 1 if self._size() > at else failures + 1
                if failures > self._job.retries:
                    raise errors.HubError(f"{self._file.path}: {error}") from error
                pause(failures, error, self._stopped)

    def _read_from(self, at: int) -> None:
        """As much as one connection brings."""
        asks = {**self._headers, "Range": f"bytes={at}-"} if at else self._headers
        timeout = httpx2.Timeout(self._job.silence_s, connect=_CONNECT_TIMEOUT_S)
        with session().stream(
            "GET", self._url, headers=asks, timeout=timeout, follow_redirects=True
        ) as response:
            check(response)
            if at and not _begins_at(response, at):
                self._start_again()
                at = 0
            for piece in response.iter_bytes():
                if self._stopped.is_set():
                    raise Stopped
                self._partial.write(piece)
                self._told(len(piece))
                at += len(piece)
                if at > self._file.size:
                    raise errors.JobFailed(f"{self._file.path} is longer than the hub says")
        if self._size() < self._file.size:
            raise TryAgain(f"the connection ended after {self._size()} of {self._file.size} bytes")

    def _start_again(self) -> None:
        self._told(-self._size())
        self._partial.truncate(0)

    def _size(self) -> int:
        return self._partial.seek(0, os.SEEK_END)

    def _is_right(self) -> bool:
        if self._size() != self._file.size:
            return False
        return digest_of(Path(self._partial.name), self._file, lambda _: None) == expected(
            self._file
        )


def _begins_at(response: httpx2.Response, at: int) -> bool:
    """Whether it is the rest that was asked for, and not all of it."""
    said = response.headers.get("Content-Range", "")
    return response.status_code == 206 and said.startswith(f"bytes {at}-")
