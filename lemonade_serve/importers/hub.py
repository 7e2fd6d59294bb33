"""Asking the hub: where it is, as whom, how patiently, and what went wrong.

The settings are the hub's own, from the environment: HF_ENDPOINT, HF_TOKEN (or the token that its
own program keeps), HF_HUB_OFFLINE, HF_HOME, HTTPS_PROXY and their like.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are, in its documentation
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
)
from msgspec import Meta

from lemonade_serve import __version__, errors
from lemonade_serve.importers.hub_cache import HubCache
from lemonade_serve.protocol.jobs import ListRepository, Repository, RepositoryFile

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S: Final = 60.0
_FIRST_WAIT_S: Final = 0.25
_LIST_RETRIES: Final = 5
_LIST_TIMEOUT_S: Final = 30.0
_USUAL: Final = "main"

_T = TypeVar("_T")


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Sibling(msgspec.Struct):
    """A file, in the hub's words: `blobId` is git's digest, `lfs` there for a large file."""

    rfilename: str
    size: Annotated[int, Meta(ge=0)]
    blobId: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
    lfs: _Lfs | None = None


class _Config(msgspec.Struct):
    """What the hub says of a `config.json`, or that file itself. Anything may stand there."""

    architectures: object = None

    @property
    def names(self) -> tuple[str, ...]:
        said = self.architectures if isinstance(self.architectures, list) else []
        return tuple(one for one in said if isinstance(one, str))


class _Info(msgspec.Struct):
    sha: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
    siblings: tuple[_Sibling, ...]
    tags: tuple[str, ...] = ()
    config: _Config | None = None


class TryAgain(Exception):
    """What may go well the next time. `wait_s`: how long the hub wants to be left alone."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def pause(failures: int, error: TryAgain, stopped: threading.Event) -> None:
    """Wait, after so many failures in a row, unless it is of no use any more."""
    wait_s = error.wait_s if error.wait_s is not None else _FIRST_WAIT_S * 2 ** (failures - 1)
    stopped.wait(min(wait_s, _LONGEST_WAIT_S))


def headers() -> dict[str, str]:
    """Who asks, and as whom."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    asks = {"User-Agent": f"lemonade-serve/{__version__}", "Accept-Encoding": "identity"}
    return {**asks, "Authorization": f"Bearer {token}"} if token else asks


def list_repository(job: ListRepository, root: str = constants.HF_HUB_CACHE) -> Repository:
    """What the hub, or offline its cache here, has of a repository.

    Raises ModelNotFound, NotAllowed, HubError.
    """
    revision = job.revision or _USUAL
    if constants.is_offline_mode():
        cache = HubCache(Path(root), job.repository)
        if known := cache.known(revision):
            config = cache.pointer(known.commit, RepositoryFile("config.json", 0))
            return msgspec.structs.replace(known, architectures=_architectures(config))
        raise errors.HubError(
            f"HF_HUB_OFFLINE is set, and the hub's cache here has nothing of {job.repository} at "
            f"{revision}"
        )
    info = _patiently(lambda: _ask(job.repository, revision))
    files = tuple(_file(sibling) for sibling in info.siblings)
    networks = info.config.names if info.config else ()
    return Repository(job.repository, revision, info.sha, files, _license(info), networks)


def _ask(repository: str, revision: str) -> _Info:
    response = session().get(
        f"{constants.ENDPOINT}/api/models/{repository}/revision/{quote(revision, safe='')}",
        params={"blobs": "true"},
        headers=headers(),
        timeout=_LIST_TIMEOUT_S,
        follow_redirects=True,
    )
    check(response)
    try:
        return msgspec.json.decode(response.content, type=_Info)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.HubError(
            f"{constants.ENDPOINT} does not answer as the hub does: {error}"
        ) from error


def _architectures(config: Path) -> tuple[str, ...]:
    """As the hub would tell them."""
    try:
        return msgspec.json.decode(config.read_bytes(), type=_Config).names
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ()


def session() -> httpx2.Client:
    """Shared by all threads. Raises HubError where the environment names a proxy that is none."""
    try:
        return get_session()
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise errors.HubError(
            f"one of the proxies that the environment names cannot be used: {error}"
        ) from error


def check(response: httpx2.Response) -> None:
    """Raises what the hub's library makes of a status that tells of a failure."""
    try:
        hf_raise_for_status(response)
    except (AttributeError, TypeError, ValueError) as error:  # it looks for its own words in there
        said = f"status {response.status_code}"
        raise HfHubHTTPError(said, response=response) from error


def _patiently(ask: Callable[[], _T]) -> _T:
    failures = 0
    while True:
        try:
            return explained(ask)
        except TryAgain as error:
            failures += 1
            if failures > _LIST_RETRIES:
                raise errors.HubError(str(error)) from error
            pause(failures, error, threading.Event())


def explained(ask: Callable[[], _T]) -> _T:
    """What `ask` returns. Raises TryAgain, or what is wrong in words that help."""
    where = constants.ENDPOINT
    try:
        return ask()
    except GatedRepoError as error:
        raise errors.NotAllowed(
            f"the hub shows this to those who accepted its terms: do that at "
            f"{_repository_page(error)}, and set HF_TOKEN to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise errors.ModelNotFound(f"there is no such revision: {_page(error)}") from error
    except RepositoryNotFoundError as error:
        raise errors.ModelNotFound(
            f"the hub at {where} has no such repository, or it is private: then HF_TOKEN must be a "
            "token of somebody who may read it"
        ) from error
    except DisabledRepoError as error:
        raise errors.NotAllowed(f"the hub has disabled {_repository_page(error)}") from error
    except HfHubHTTPError as error:
        raise _refusal(error) from error
    except OfflineModeIsEnabled as error:
        raise errors.HubError("HF_HUB_OFFLINE is set, and not all files are here") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise errors.HubError(f"HF_ENDPOINT is no address: {where}: {error}") from error
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise TryAgain(f"the hub at {where} cannot be reached: {error!r}") from error


def _refusal(error: HfHubHTTPError) -> Exception:
    status = error.response.status_code
    said = f"the hub at {constants.ENDPOINT} answered with status {status}"
    # a CDN knows no tokens, but an address that was signed for too short a time
    elsewhere = not str(error.response.url).startswith(constants.ENDPOINT)
    if status in RETRIED or (status in (401, 403) and elsewhere):
        return TryAgain(said, _wanted_wait_s(error.response.headers))
    if status in (401, 403):
        return errors.NotAllowed(f"{said}: set HF_TOKEN to a token that may read this")
    return errors.HubError(said)


def _wanted_wait_s(headers: httpx2.Headers) -> float | None:
    after = headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(headers)
    return limit.reset_in_seconds + 1.0 if limit and limit.remaining == 0 else None


def _repository_page(error: HfHubHTTPError) -> str:
    return re.split("/revision/|/resolve/", _page(error))[0]


def _page(error: HfHubHTTPError) -> str:
    return str(error.response.url).partition("?")[0].replace("/api/models/", "/")


def _file(sibling: _Sibling) -> RepositoryFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else ""
    return RepositoryFile(sibling.rfilename, sibling.size, sha256=sha256, git=sibling.blobId)


def _license(info: _Info) -> str | None:
    """As the repository's card says it."""
    tags = (tag.partition(":")[2] for tag in info.tags if tag.startswith("license:"))
    return next(tags, None)
