"""Streamed answers of any server that speaks OpenAI's `/completions`: noted now, read later.

The client shares the cores with the server. So while a stream runs it only notes when which bytes
came, and nothing is parsed before all streams of a measurement are over.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

_LAST_CHUNK = b"0\r\n\r\n"
_DATA = re.compile(rb"^data: ?(.*?)\r?\n", re.MULTILINE)
_DONE = b"[DONE]"
_SHOWN = 200
NO_TEXT = "no text"
"""The problem of an answer that is whole otherwise."""


class Server(msgspec.Struct, frozen=True):
    """Whom to ask: a base URL such as `http://127.0.0.1:1234/v1`, and headers for all requests."""

    url: str
    headers: Mapping[str, str] = {}

    def request(self, body: Mapping[str, object]) -> bytes:
        """POST to `/completions`, on a connection that is for this request only."""
        parts, content = urlsplit(self.url), msgspec.json.encode(body)
        said = {
            "Host": parts.netloc,
            "Connection": "close",
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **self.headers,
        }
        lines = (f"{name}: {value}\r\n" for name, value in said.items())
        start = f"POST {parts.path.rstrip('/')}/completions HTTP/1.1\r\n"
        return f"{start}{''.join(lines)}\r\n".encode() + content

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host, port, and whether it wants TLS."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "https"
        return parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80), tls


class Answer(NamedTuple):
    """One request, in seconds of `time.perf_counter`. A token whose text was held back has no time
    of its own, so that there may be fewer times than tokens."""

    began: float
    ended: float
    choices: dict[int, list[float]]
    """When each piece of text came, by choice."""
    texts: dict[int, str]
    reasons: dict[int, str]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    problem: str
    """Why it is not a whole answer; empty, if it is one."""

    @property
    def times(self) -> list[float]:
        return sorted(chain.from_iterable(self.choices.values()))

    @property
    def time_to_first_token(self) -> float:
        """Until the first text of any choice."""
        return self.times[0] - self.began

    @property
    def time_per_output_token(self) -> float | None:
        """(end-to-end - TTFT) / (tokens - 1)."""
        if self.completion_tokens < 2:
            return None
        return (self.ended - self.times[0]) / (self.completion_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        return [late - early for times in self.choices.values() for early, late in pairwise(times)]


class Exchange(asyncio.Protocol):
    """One request, from its sending to the end of its stream."""

    def __init__(self, request: bytes, began: float) -> None:
        self.began = began
        self._request = request
        self._came: list[tuple[float, bytes]] = []
        self._awaited: tuple[int, asyncio.Future[None]] | None = None
        self._transport: asyncio.Transport | None = None
        self._over = asyncio.get_running_loop().create_future()
        self.hung_up = False

    @classmethod
    async def begin(
        cls, server: Server, body: Mapping[str, object], *, due: float | None = None
    ) -> Exchange:
        """Connect and send. Times count from `due`, which is now unless it is said. Raises OSError
        when nobody listens."""
        loop, (host, port, tls) = asyncio.get_running_loop(), server.address
        request = server.request(body)
        began = time.perf_counter() if due is None else due
        _, exchange = await loop.create_connection(
            lambda: cls(request, began), host, port, ssl=tls or None
        )
        return exchange

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._came.append((time.perf_counter(), data))
        if self._awaited and len(self._came) >= self._awaited[0]:
            self._wake()
        if data.endswith(_LAST_CHUNK) and self._transport:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wake()
        if not self._over.done():
            self._over.set_result(None)

    async def heard(self, pieces: int) -> None:
        """Bytes came so many times, or it is over."""
        if len(self._came) < pieces and not self._over.done():
            self._awaited = pieces, asyncio.get_running_loop().create_future()
            await self._awaited[1]

    async def over(self, patience_s: float) -> None:
        """The stream has ended; after so long, or when this is cancelled, the client hangs up."""
        try:
            await asyncio.wait_for(asyncio.shield(self._over), patience_s)
        except TimeoutError:
            self.hang_up()
            await self._over
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Before the end, as a client does that wants no more."""
        if self._transport and not self._over.done() and not self._transport.is_closing():
            self.hung_up = True
            self._transport.abort()

    def read(self) -> Answer:
        """What came."""
        return _answer(self.began, self._came)

    def _wake(self) -> None:
        if self._awaited and not self._awaited[1].done():
            self._awaited[1].set_result(None)


async def ask(server: Server, body: Mapping[str, object], patience_s: float) -> Answer:
    """One request from its beginning to its end."""
    exchange = await Exchange.begin(server, body)
    await exchange.over(patience_s)
    return exchange.read()


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)


def _answer(began: float, came: list[tuple[float, bytes]]) -> Answer:
    choices: dict[int, list[float]] = {}
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage, error, ended = None, None, None
    head, _, rest = b"".join(data for _, data in came).partition(b"\r\n\r\n")
    for at, data in _events(head, rest, came):
        if data == _DONE:
            ended = at
            continue
        event = _event.decode(data)
        usage, error = event.usage or usage, event.error or error
        for choice in event.choices:
            if choice.text:
                choices.setdefault(choice.index, []).append(at)
                texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    problem = ""
    if not head.startswith(b"HTTP/1.1 200"):
        problem = (head.split(b"\r\n")[0] + b" " + rest[:_SHOWN]).decode(errors="replace")
    elif error is not None:
        problem = f"an error event: {error}"[:_SHOWN]
    elif ended is None:
        problem = "the stream broke off"
    elif usage is None or not reasons or reasons.keys() < texts.keys():
        problem = "no usage, or no finish_reason"
    elif not choices:
        problem = NO_TEXT
    details = usage.prompt_tokens_details if usage else None
    return Answer(
        began,
        ended or (came[-1][0] if came else began),
        choices,
        texts,
        reasons,
        usage.prompt_tokens if usage else 0,
        (details.cached_tokens if details else None) or 0,
        usage.completion_tokens if usage else 0,
        problem,
    )


def _events(
    head: bytes, rest: bytes, came: list[tuple[float, bytes]]
) -> Iterator[tuple[float, bytes]]:
    """The data of each server-sent event, and when the last of its bytes came. An answer that is
    not streamed is one event, and the end."""
    said = head.lower()
    chunked = b"transfer-encoding: chunked" in said
    body, ends, shifts = _joined(rest) if chunked else (rest, [len(rest)], [0])
    if b"content-type: application/json" in said:
        with suppress(msgspec.DecodeError):  # it broke off
            _event.decode(body)
            yield from ((came[-1][0], data) for data in (body, _DONE))
        return
    received = list(accumulate(len(data) for _, data in came))
    for found in _DATA.finditer(body):
        part = bisect_left(ends, found.end())
        offset = len(head) + len(b"\r\n\r\n") + found.end() + shifts[part]
        yield came[bisect_left(received, offset)][0], found[1]


def _joined(rest: bytes) -> tuple[bytes, list[int], list[int]]:
    """The body of what was sent in chunks (RFC 9112, 7.1); where each chunk ends in it, and how
    much further on it is in what was sent. A chunk that was cut off is left out."""
    chunks, ends, shifts = [], [], []
    at = length = 0
    while (line := rest.find(b"\r\n", at)) >= 0:
        size = int(rest[at:line].split(b";")[0], 16)
        start = line + 2
        if size == 0 or start + size > len(rest):
            break
        chunks.append(rest[start : start + size])
        shifts.append(start - length)
        length += size
        ends.append(length)
        at = start + size + 2
    return b"".join(chunks), ends, shifts
