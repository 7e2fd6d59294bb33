"""How a Generation becomes an answer, whole or streamed; a dialect only says how to write it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec
from litestar import Request
from litestar.response import Stream

from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.connection import while_connected
from lemonade_serve.api.errors import Shown, report, show
from lemonade_serve.domain.completion import (
    CompletionRequest,
    CompletionService,
    Finished,
    Generation,
    Token,
)

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


class StreamBounds(msgspec.Struct, frozen=True, kw_only=True):
    """`status_hold_s`: how long the status waits for the first token; `keepalive_s`: the longest
    silence."""

    status_hold_s: float
    keepalive_s: float


class Writer(Protocol):
    """One answer in one dialect."""

    def text(self, generation: Generation, text: str) -> bytes:
        """Some of the text, as stream events."""

    def end(self, generation: Generation) -> bytes:
        """What comes after the text, as stream events."""

    def error(self, shown: Shown) -> bytes:
        """An error in the middle of the stream."""


def event(body: object) -> bytes:
    """One server-sent event."""
    return b"data: " + _encoder.encode(body) + b"\n\n"


async def begin(
    request: Request[Any, Any, Any], service: CompletionService, wanted: CompletionRequest
) -> Generation:
    """Start a generation, for this request's line in the log too."""
    generation = await service.begin(wanted)
    exchange_of(request.scope).generation = generation
    return generation


async def whole(request: Request[Any, Any, Any], generation: Generation) -> str:
    """The text, when it is complete. Cancels the generation if the client leaves."""
    try:
        return await while_connected(request, _collect(generation))
    finally:
        generation.cancel()


async def stream(
    request: Request[Any, Any, Any], generation: Generation, writer: Writer, bounds: StreamBounds
) -> Stream:
    """The text as it comes. What fails before the first token raises, with its honest status."""
    try:
        first = await while_connected(request, _first(generation, bounds.status_hold_s))
    except BaseException:
        generation.cancel()
        raise
    chunks = _chunks(request, generation, writer, bounds.keepalive_s, first)
    return Stream(chunks, media_type="text/event-stream", headers=_STREAM_HEADERS)


async def _collect(generation: Generation) -> str:
    pieces = []
    while True:
        piece = await generation.next()
        pieces.append(piece.text)
        if isinstance(piece, Finished):
            return "".join(pieces)


async def _first(generation: Generation, hold_s: float) -> Token | Finished | None:
    try:
        return await generation.next(hold_s)
    except TimeoutError:
        return None


async def _chunks(
    request: Request[Any, Any, Any],
    generation: Generation,
    writer: Writer,
    keepalive_s: float,
    piece: Token | Finished | None,
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    silent_until = loop.time()
    try:
        while True:
            if piece is not None and piece.text:
                yield writer.text(generation, piece.text)
                silent_until = loop.time() + keepalive_s
            if isinstance(piece, Finished):
                yield writer.end(generation)
                return
            try:
                piece = await generation.next(max(0.0, silent_until - loop.time()))
            except TimeoutError:
                piece = None
                yield _PING
                silent_until = loop.time() + keepalive_s
    except Exception as error:
        exchange_of(request.scope).failed = True
        report("stream_failed", error)
        yield writer.error(show(error))
    finally:
        generation.cancel()
