"""The loop of a worker that encodes: as worker/loop.py's, of whose reader thread it takes its
commands, but a request is done when its inputs are read once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, Protocol

from lemonade_serve import errors
from lemonade_serve.protocol.messages import (
    Begun,
    Cancel,
    Encode,
    Encoded,
    Encoding,
    Event,
    Events,
    Failed,
    Report,
    TextPrompt,
    TokensPrompt,
)
from lemonade_serve.worker.encoders.batches import batches, weight
from lemonade_serve.worker.encoders.graph import Values
from lemonade_serve.worker.encoders.reading import Row
from lemonade_serve.worker.engines.base import failure_code
from lemonade_serve.worker.loop import Inbox, Turn
from lemonade_serve.worker.waiting import Waiting


class Graph(Protocol):
    """What computes; see EncoderGraph."""

    def run(self, rows: Sequence[Row]) -> list[Values]: ...

    def finish(self, values: Values, dimensions: int | None) -> Values: ...

    def check(self, dimensions: int | None) -> None: ...


class Texts(Protocol):
    """What reads inputs; see Reader."""

    def read(
        self, given: TextPrompt | TokensPrompt, query: str | None, *, truncate: bool, named: str
    ) -> Row: ...


class _Input(NamedTuple):
    """The `nth` of a request's."""

    request: int
    nth: int


class _Reading(NamedTuple):
    """An input that has its turn, with its tokens."""

    input: _Input
    row: Row

    @property
    def length(self) -> int:
        return len(self.row)


class _Request:
    def __init__(self, work: Encoding, tickets: Sequence[int]) -> None:
        self.work = work
        self.tickets = tickets
        self.begun = False
        self.unfinished = len(work.inputs)


class EncoderLoop:
    """Runs requests on the graph, for ever; each batch's events leave as one frame.

    Inputs of all requests are read in turns that are fair to clients, as many together as fill a
    batch or a little more, and sorted by length, so that there is little padding. With `alone` each
    is a batch. `turn` is held while the graph computes.
    """

    def __init__(  # noqa: PLR0913, everything that it connects
        self,
        graph: Graph,
        texts: Texts,
        inbox: Inbox,
        send: Callable[[Report], None],
        *,
        turn: Turn,
        batch_tokens: int,
        alone: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graph = graph
        self._texts = texts
        self._inbox = inbox
        self._send = send
        self._turn = turn
        self._batch_tokens = batch_tokens
        self._alone = alone
        self._clock = clock
        self._requests: dict[int, _Request] = {}
        self._tickets = itertools.count()
        self._waiting: Waiting[tuple[int, _Input]] = Waiting()
        self._batches: list[list[_Reading]] = []

    def run(self) -> NoReturn:
        while True:
            self._obey()
            if not self._batches:
                self._batches = self._cut(self._next())
            if self._batches:
                self._step(self._batches.pop(0))

    def _obey(self) -> None:
        """Take every command that is there; with nothing to do, wait for one."""
        while not self._inbox.empty() or not (self._batches or self._waiting):
            match self._inbox.get():
                case Encode(request, work):
                    self._receive(request, work)
                case Cancel(request):
                    self._forget(request)
                case other:
                    raise TypeError(f"a worker that encodes got {type(other).__name__}")

    def _receive(self, request: int, work: Encoding) -> None:
        try:
            self._graph.check(work.dimensions)
        except errors.LemonadeError as error:
            self._fail(request, error)
            return
        tickets = [next(self._tickets) for _ in work.inputs]
        self._requests[request] = _Request(work, tickets)
        for index, ticket in enumerate(tickets):
            one = ticket, _Input(request, index)
            self._waiting.enter(ticket, one, work.client, work.weight)

    def _next(self) -> list[_Reading]:
        """The inputs whose turn it is, about as many as fill a batch."""
        found, tokens = list[_Reading](), 0
        while self._waiting and tokens < self._batch_tokens:
            _, one = self._waiting.pop()
            if reading := self._read(one):
                found.append(reading)
                tokens += weight(reading.length)
        return found

    def _read(self, one: _Input) -> _Reading | None:
        """None if there is nothing to read, or its request has failed because of it."""
        work = self._requests[one.request].work
        named = f"{work.field}[{one.nth}]"
        try:
            given = work.inputs[one.nth]
            row = self._texts.read(given, work.query, truncate=work.truncate, named=named)
        except errors.LemonadeError as error:
            self._fail(one.request, error)
        except Exception as error:  # one request's trouble is not the others'; its text stays here
            why = f"{named} could not be read: {type(error).__name__}"
            self._fail(one.request, errors.GenerationFailed(why))
        else:
            return _Reading(one, row)
        return None

    def _cut(self, readings: list[_Reading]) -> list[list[_Reading]]:
        known = [reading for reading in readings if reading.input.request in self._requests]
        if self._alone:
            return [[reading] for reading in known]
        return batches(known, lambda reading: reading.length, bound=self._batch_tokens)

    def _step(self, batch: list[_Reading]) -> None:
        batch = [reading for reading in batch if reading.input.request in self._requests]
        if not batch:  # all of them were cancelled
            return
        self._begin(batch)
        try:
            with self._turn():
                found = self._graph.run([reading.row for reading in batch])
        except Exception as error:  # native code raises anything, std::bad_alloc included
            self._break(batch, error)
            return
        pairs = zip(batch, found, strict=True)
        events: list[Event] = [self._encoded(reading, values) for reading, values in pairs]
        self._send(Events(tuple(events), len(events)))

    def _begin(self, batch: list[_Reading]) -> None:
        now, news = self._clock(), list[Event]()
        for number in {reading.input.request: None for reading in batch}:
            request = self._requests[number]
            if not request.begun:
                request.begun = True
                news.append(Begun(number, now))
        if news:
            self._send(Events(tuple(news)))

    def _encoded(self, reading: _Reading, values: Values) -> Encoded:
        number, nth = reading.input
        request = self._requests[number]
        request.unfinished -= 1
        if not request.unfinished:
            del self._requests[number]
        told = self._graph.finish(values, request.work.dimensions).astype("<f4").tobytes()
        return Encoded(number, nth, reading.length, told)

    def _break(self, batch: list[_Reading], error: Exception) -> None:
        kind = errors.from_code(failure_code(error), str(error) or type(error).__name__)
        for number in {reading.input.request: None for reading in batch}:
            self._fail(number, kind)

    def _fail(self, request: int, error: errors.LemonadeError) -> None:
        self._forget(request)
        self._send(Events((Failed(request, error.code, error.message, error.param),)))

    def _forget(self, request: int) -> None:
        if known := self._requests.pop(request, None):
            for ticket in known.tickets:
                self._waiting.leave(ticket)
