"""Asking a daemon over HTTP, as any client would."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import msgspec

from lemonade_serve import __version__
from lemonade_serve.errors import LemonadeError, WorkerLost
from lemonade_serve.settings.schema import ClientName

ANSWER_TIMEOUT_S = 60.0
"""For what the daemon answers at once."""
WORK_TIMEOUT_S = 1800.0
"""For what it answers when it is done. At its default settings a load may queue, wait until another
model's requests have finished, and then read a large checkpoint: 25 minutes together."""
_CONNECT_TIMEOUT_S = 5.0
_SILENCE_TIMEOUT_S = 60.0
"""The daemon sends a comment every few seconds while it loads or computes."""

_KEY = re.compile(r"[\x21-\x7e]+")
_LONGEST_REASON = 400

_T = TypeVar("_T")


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What one event of a stream brought: some text, or at the end the usage."""

    text: str = ""
    completion_tokens: int | None = None


class Figures:
    """Times of one stream by the client's own clock, in seconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._began
        self.completion_tokens = 0

    def saw(self, piece: Piece) -> None:
        if piece.text:
            self._last = time.perf_counter()
            self._first = self._first or self._last
        self.completion_tokens = piece.completion_tokens or self.completion_tokens

    def line(self) -> str:
        """For people."""
        if self._first is None:
            return "no text"
        seconds = self._last - self._first
        speed = (self.completion_tokens - 1) / seconds if seconds > 0 else 0.0
        return (
            f"time to first token {self._first - self._began:.3f} s, "
            f"{speed:.1f} tokens/s, {self.completion_tokens} tokens"
        )


class Api:
    """One daemon, and who asks it.

    `url` is `http://HOST:PORT`, https too, or `unix:/PATH` for a socket. `key` is an API key,
    `client` the name that parameters are kept under. All methods raise LemonadeError: with what
    the daemon said, or with what to do when there is none.
    """

    def __init__(self, url: str, *, key: str | None = None, client: str | None = None) -> None:
        self._url = url
        self._base_url, self._socket = _address(url)
        self._headers = {**_key_header(key), **_client_header(client)}

    def get(self, path: str, **query: str | None) -> dict[str, Any]:
        """A query parameter that is None is left out."""
        return self._request("GET", path, query=query)

    def delete(
        self, path: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **query: str | None
    ) -> dict[str, Any]:
        """A query parameter that is None is left out."""
        return self._request("DELETE", path, query=query, timeout_s=timeout_s)

    def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        """Returns what was answered within `timeout_s`."""
        return self._request("POST", path, body=body, timeout_s=timeout_s)

    async def ask(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """Stream an OpenAI completion."""
        wanted = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._explained():
            async with (
                self._connected(_SILENCE_TIMEOUT_S) as http,
                http.stream("POST", path, json=wanted) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    raise LemonadeError(_refusal(response))
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        yield _piece(json.loads(line.removeprefix("data: ")))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> dict[str, Any]:
        params = {name: value for name, value in (query or {}).items() if value is not None}

        async def request() -> httpx.Response:
            async with self._connected(timeout_s) as http:
                return await http.request(method, path, params=params, json=body)

        with self._explained():
            response = asyncio.run(request())
        if not response.is_success:
            raise LemonadeError(_refusal(response))
        return self._object(response)

    def _connected(self, timeout_s: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base_url,
            headers=self._headers,
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            transport=httpx.AsyncHTTPTransport(uds=self._socket) if self._socket else None,
            trust_env=not _is_loopback(self._base_url),
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise LemonadeError(
                f"no daemon answers at {self._url}: start one with `lemonade-serve serve`, "
                "or name it with --url"
            ) from error
        except httpx.RequestError as error:
            raise LemonadeError(f"the daemon at {self._url} did not finish: {error!r}") from error

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise LemonadeError(f"what answers at {self._url} is not lemonade-serve: see --url")
        return answer


def read(answer: Mapping[str, Any], kind: type[_T]) -> _T:
    """The answer as a Struct. Raises LemonadeError when the daemon means something else by it."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise LemonadeError(
            f"this command (version {__version__}) does not understand the daemon's answer: {error}"
        ) from error


def _address(url: str) -> tuple[str, str | None]:
    """What to ask over HTTP, and through which socket."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if path:
            return "http://localhost", path
    elif _is_http(url):
        return url, None
    raise LemonadeError(f"--url must be http://HOST:PORT or unix:/PATH, not {url!r}")


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _key_header(key: str | None) -> dict[str, str]:
    if not key:
        return {}
    if not _KEY.fullmatch(key):  # and the key itself is not shown
        raise LemonadeError("an API key has only visible ASCII characters, and no spaces")
    return {"Authorization": f"Bearer {key}"}


def _client_header(client: str | None) -> dict[str, str]:
    if not client:
        return {}
    try:
        return {"X-Client-Id": msgspec.convert(client, ClientName)}
    except msgspec.ValidationError as error:
        raise LemonadeError(
            f"a client's name is 1 to 64 of A-Z a-z 0-9 . _ : -, not {client!r}"
        ) from error


def _is_loopback(base_url: str) -> bool:
    """A proxy of the environment is not for this machine."""
    return httpx.URL(base_url).host in ("127.0.0.1", "localhost", "::1")


def _piece(event: dict[str, Any]) -> Piece:
    if "error" in event:
        raise WorkerLost(event["error"]["message"])
    if usage := event.get("usage"):
        return Piece(completion_tokens=usage["completion_tokens"])
    choice = event["choices"][0]
    text = choice["delta"].get("content") if "delta" in choice else choice["text"]
    return Piece(text=text or "")


def _refusal(response: httpx.Response) -> str:
    """The daemon's reason, and what may help."""
    reason, wait = _reason(response), response.headers.get("Retry-After", "")
    if response.status_code == 401:
        return f"{reason} (here: --api-key, or LEMONADE_API_KEY)"
    if response.status_code == 404 and reason == "Not Found":  # no word of ours: the route itself
        return f"it has no {response.url.path}: is it lemonade-serve of version {__version__}?"
    return f"{reason} (try again in {wait} s)" if wait.isdigit() else reason


def _reason(response: httpx.Response) -> str:
    """In the specification's shape, in OpenAI's, or in whatever a proxy says."""
    try:
        body = response.json()
        return str(body["message"] if "message" in body else body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = textwrap.shorten(response.text, _LONGEST_REASON, placeholder=" …")
        return text or f"the daemon gave no reason (status {response.status_code})"
