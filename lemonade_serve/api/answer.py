"""How a Generation becomes an answer, whole or streamed; a dialect only says how to write it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from litestar import Request, Response
from litestar.response import Stream

from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.connection import while_connected
from lemonade_serve.api.errors import Shown, report, show
from lemonade_serve.domain.completion import (
    ChatPrompt,
    CompletionRequest,
    CompletionService,
    Finished,
    FinishReason,
    Generation,
    Logprob,
    Token,
)
from lemonade_serve.domain.tools import CallParser, CallPart, joined, parser_of

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE = b"data: [DONE]\n\n"

Drawn = tuple[Logprob, ...]
"""The token that was drawn, then the most likely ones."""

_Body = TypeVar("_Body")
_Body_co = TypeVar("_Body_co", covariant=True)

_encoder = msgspec.json.Encoder()


class StreamBounds(msgspec.Struct, frozen=True, kw_only=True):
    """`status_hold_s`: how long the status waits for the first token; `keepalive_s`: the longest
    silence."""

    status_hold_s: float
    keepalive_s: float


class Part(msgspec.Struct, frozen=True):
    """Some of a sequence, or all of it. `drawn`: the tokens of it, if logprobs were asked for.
    `reason`: why it ended, `tool_calls` included; empty, if this is not its end. `calls`: of tools,
    after the text, whole ones where the part is a whole sequence."""

    index: int
    text: str
    drawn: Sequence[Drawn] = ()
    reason: str = ""
    calls: Sequence[CallPart] = ()


class Writer(Protocol[_Body_co]):
    """One answer in one dialect."""

    def whole(self, generation: Generation, sequences: Sequence[Part]) -> _Body_co:
        """All of it, in the order of the sequences."""

    def begin(self, generation: Generation) -> bytes:
        """What a stream begins with, before there is any text."""

    def part(self, generation: Generation, part: Part) -> bytes:
        """Stream events: some text, or the end of a sequence, which brings none."""

    def end(self, generation: Generation) -> bytes:
        """What comes after all sequences, as stream events."""

    def error(self, shown: Shown) -> bytes:
        """An error in the middle of the stream."""


def event(body: object, name: str = "") -> bytes:
    """One server-sent event, with a name if it has one."""
    named = b"event: " + name.encode() + b"\n" if name else b""
    return named + b"data: " + _encoder.encode(body) + b"\n\n"


async def give(
    request: Request[Any, Any, Any],
    service: CompletionService,
    wanted: CompletionRequest,
    writer: Writer[_Body],
    bounds: StreamBounds,
) -> Response[_Body] | Stream:
    """Generate, for this request's line in the log too, and answer in the writer's dialect. The
    generation is cancelled when the client leaves.

    What fails before the first token raises, with its honest status.
    """
    generation = await service.begin(wanted)
    exchange_of(request.scope).generation = generation
    cutter = _cutter(generation, wanted)
    try:
        if not wanted.streaming:
            sequences = await while_connected(request, _collect(generation, cutter))
            return Response(writer.whole(generation, sequences))
        first = await while_connected(request, _first(generation, bounds.status_hold_s))
    except BaseException:
        generation.cancel()
        raise
    chunks = _chunks(request, generation, cutter, writer, bounds.keepalive_s, first)
    return Stream(chunks, media_type="text/event-stream", headers=STREAM_HEADERS)


class _Cutter:
    """Makes parts of what a Generation says. Tokens wait for the text that they end in, or the
    calls. `new_parser` is asked once a sequence has begun; None: all that it says is text. Unless
    `parallel`, only the first call counts, though a model that was not made to may write on."""

    def __init__(
        self,
        new_parser: Callable[[], CallParser | None] = lambda: None,
        *,
        parallel: bool = True,
    ) -> None:
        self._new_parser = new_parser
        self._parallel = parallel
        self._parsers: dict[int, CallParser | None] = {}
        self._calling: set[int] = set()
        self._waiting: dict[int, list[Drawn]] = {}

    def cut(self, piece: Token | Finished) -> Iterator[Part]:
        index = piece.index
        if isinstance(piece, Token) and piece.logprobs:
            self._waiting.setdefault(index, []).append(piece.logprobs)
        for text, calls in self._read(piece):
            if calls:
                self._calling.add(index)
            yield Part(index, text, self._waiting.pop(index, ()), "", calls)
        if isinstance(piece, Finished):
            yield Part(index, "", self._waiting.pop(index, ()), self._reason(piece))

    def _read(self, piece: Token | Finished) -> Iterator[tuple[str, Sequence[CallPart]]]:
        """Texts, each with the calls that follow it."""
        index = piece.index
        if index not in self._parsers:
            self._parsers[index] = self._new_parser()
        parser = self._parsers[index]
        if parser is None:
            if piece.text:
                yield piece.text, ()
            return
        said = [*parser.push(piece.text)]
        if isinstance(piece, Finished):
            said += parser.flush()
        text, calls = "", list[CallPart]()
        for one in said:
            if isinstance(one, CallPart):
                if self._parallel or one.index == 0:
                    calls.append(one)
            elif calls:
                yield text, calls
                text, calls = one, []
            else:
                text += one
        if text or calls:
            yield text, calls

    def _reason(self, piece: Finished) -> str:
        called = piece.index in self._calling and piece.reason is FinishReason.STOP
        return "tool_calls" if called else piece.reason.value


def _cutter(generation: Generation, wanted: CompletionRequest) -> _Cutter:
    """The worker says how calls are written once it has begun, if there are tools."""
    if not isinstance(wanted.prompt, ChatPrompt):
        return _Cutter()
    names = frozenset(tool.name for tool in wanted.prompt.tools)

    def new_parser() -> CallParser | None:
        written = generation.tool_format
        return parser_of(written, _call_id, names) if written else None

    return _Cutter(new_parser, parallel=wanted.prompt.choice.parallel)


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


async def _collect(generation: Generation, cutter: _Cutter) -> list[Part]:
    unfinished = generation.n
    parts: list[list[Part]] = [[] for _ in range(generation.n)]
    while unfinished:
        piece = await generation.next()
        unfinished -= isinstance(piece, Finished)
        for part in cutter.cut(piece):
            parts[part.index].append(part)
    return [_joined(of_one) for of_one in parts]


def _joined(parts: Sequence[Part]) -> Part:
    last = parts[-1]
    text = "".join(part.text for part in parts)
    drawn = [drawn for part in parts for drawn in part.drawn]
    calls = joined([call for part in parts for call in part.calls])
    return Part(last.index, text, drawn, last.reason, calls)


async def _first(generation: Generation, hold_s: float) -> Token | Finished | None:
    try:
        return await generation.next(hold_s)
    except TimeoutError:
        return None


async def _chunks(
    request: Request[Any, Any, Any],
    generation: Generation,
    cutter: _Cutter,
    writer: Writer[Any],
    keepalive_s: float,
    piece: Token | Finished | None,
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    unfinished = generation.n
    silent_until = loop.time()
    try:
        if opening := writer.begin(generation):
            yield opening
        while True:
            if piece is not None:
                unfinished -= isinstance(piece, Finished)
                for part in cutter.cut(piece):
                    yield writer.part(generation, part)
                    silent_until = loop.time() + keepalive_s
            if not unfinished:
                yield writer.end(generation)
                return
            try:
                piece = await generation.next(max(0.0, silent_until - loop.time()))
            except TimeoutError:
                piece = None
                yield _comment(generation)
                silent_until = loop.time() + keepalive_s
    except Exception as error:
        shown = show(error)
        exchange_of(request.scope).error = shown.code
        report("stream_failed", error)
        yield writer.error(shown)
    finally:
        generation.cancel()


def _comment(generation: Generation) -> bytes:
    """Says that the server is still there, and how long the queue is."""
    if generation.ahead is None:
        return b": ping\n\n"
    return b": queued, %d ahead\n\n" % generation.ahead
