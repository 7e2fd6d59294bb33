"""The worker's threads: one reads commands, one owns the engine and sends what it does; a third
(preparing.py) makes what some requests need first."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn, Protocol

from lemonade_serve import errors
from lemonade_serve.protocol.messages import (
    Cancel,
    Command,
    Event,
    Events,
    Failed,
    Finished,
    Generate,
    Queued,
    Report,
    ResolvedParams,
    Started,
    Work,
)
from lemonade_serve.worker.calls import guided
from lemonade_serve.worker.engines import base
from lemonade_serve.worker.engines.base import (
    Admitted,
    Broken,
    Engine,
    Group,
    Id,
    Sampled,
    Scored,
)
from lemonade_serve.worker.generation import Answer
from lemonade_serve.worker.guidance import Grammars
from lemonade_serve.worker.preparing import Prepared, Preparing
from lemonade_serve.worker.vocabulary import Vocabulary, field_of
from lemonade_serve.worker.waiting import Waiting

Inbox = queue.SimpleQueue[Command | Prepared]
Turn = Callable[[], AbstractContextManager[None]]


class CommandSource(Protocol):
    def receive(self) -> Command | None: ...


def read_into(inbox: Inbox, source: CommandSource) -> threading.Thread:
    """Start the reader thread. At end of file the daemon is gone: the process exits at once,
    whatever native code it is in."""

    def read() -> None:
        code = 1
        try:
            while (command := source.receive()) is not None:
                inbox.put(command)
            code = 0
        finally:
            os._exit(code)

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    return thread


def _give_up() -> None:
    """Of a grammar that takes for ever: what it took is given back with the process."""
    sys.stderr.write("a grammar took longer than worker.guidance_timeout_s to compile\n")
    sys.stderr.flush()
    os._exit(1)


class Loop:
    """Runs requests on the engine, for ever; each step's events leave as one frame. `turn` is held
    while the engine computes."""

    def __init__(  # noqa: PLR0913, everything that it connects
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        inbox: Inbox,
        send: Callable[[Report], None],
        *,
        turn: Turn,
        guidance_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._inbox = inbox
        self._send = send
        self._turn = turn
        self._clock = clock
        self._answers: dict[int, Answer] = {}
        grammars = Grammars(vocabulary.tokenizer_json, vocabulary.eos_ids)
        self._preparing = Preparing(
            grammars.masks, inbox.put, timeout_s=guidance_timeout_s, give_up=_give_up
        )
        self._waiting: Waiting[Group] = Waiting()
        self._told: dict[int, int] = {}
        """How many are ahead of those that wait, as they know it."""

    def run(self) -> NoReturn:
        while True:
            self._obey()
            self._start()
            self._tell_places()
            if not self._engine.idle:
                with self._turn():
                    began = self._clock()
                    step = self._engine.step()
                events = [event for one in step.events for event in self._events(one, began)]
                self._emit(events, batch=step.batch)

    def _obey(self) -> None:
        """Take every command that is there; with nothing to do, wait for one."""
        while not self._inbox.empty() or (self._engine.idle and not self._waiting):
            match self._inbox.get():
                case Generate() as command:
                    self._receive(command)
                case Cancel(request):
                    self._forget(request)
                case Prepared() as prepared:
                    self._preparing.next()
                    self._guide(prepared)
                case other:
                    raise TypeError(f"a worker that serves got {type(other).__name__}")

    def _receive(self, command: Generate) -> None:
        request, work = command.request, command.work
        try:
            self._check_adapter(work)
            work = guided(work, self._vocabulary)
            prompt = self._vocabulary.encode(work.prompt)
            self._check_bias(work.params)
            answer = Answer(
                request, work, prompt, room=self._room(command, prompt), vocabulary=self._vocabulary
            )
        except errors.LemonadeError as error:
            self._refuse(request, error)
            return
        except Exception as error:  # one request's trouble is not the others'; its text stays here
            failure = f"the prompt could not be read: {type(error).__name__}"
            self._emit([Failed(request, errors.GenerationFailed.code, failure)])
            return
        self._answers[request] = answer
        if work.guidance is None:
            self._waiting.enter(request, answer.group, work.client, work.weight)
        else:
            self._preparing.enter(request, work)

    def _guide(self, prepared: Prepared) -> None:
        """It waits for its turn from now on, unless it was cancelled meanwhile."""
        request, work = prepared.request, prepared.work
        if (answer := self._answers.get(request)) is None:
            return
        if prepared.failure is not None:
            self._forget(request)
            self._refuse(request, prepared.failure)
            return
        answer.guide(prepared.masks)
        self._waiting.enter(request, answer.group, work.client, work.weight)

    def _refuse(self, request: int, error: errors.LemonadeError) -> None:
        self._emit([Failed(request, error.code, error.message, error.param)])

    def _check_adapter(self, work: Work) -> None:
        if work.adapter is not None and not self._engine.takes_adapters:
            raise errors.ModelLoadError(
                f"{work.adapter.name} is of no use to this model: no matrix of its graph can be "
                "given with a request"
            )

    def _check_bias(self, params: ResolvedParams) -> None:
        size = self._vocabulary.size
        if unknown := [token for token, _ in params.logit_bias if not 0 <= token < size]:
            raise errors.InvalidRequest(
                f"{unknown[0]} is no token of this model: its ids are 0 to {size - 1}",
                param="logit_bias",
            )

    def _room(self, command: Generate, prompt: list[int]) -> int:
        """How many tokens may follow the prompt in each sequence. Raises what can never be."""
        work, context = command.work, self._vocabulary.context_length
        if work.n > self._engine.sequence_slots:
            raise errors.InvalidRequest(
                f"{work.n} sequences never run at once here: worker.sequence_slots is "
                f"{self._engine.sequence_slots}",
                param="n",
            )
        share = self._engine.kv_cache_tokens // work.n
        room = min(context, share) - len(prompt)
        if room >= 1:
            return room
        bound = f"this model's context is {context}"
        if share < context:
            bound = f"worker.kv_cache_tokens is {self._engine.kv_cache_tokens}"
            bound += f" for {work.n} sequences" if work.n > 1 else ""
        raise errors.ContextLengthExceeded(
            f"the prompt has {len(prompt)} tokens; {bound}, and at least one is generated",
            param=field_of(work.prompt),
        )

    def _start(self) -> None:
        """Whoever's turn it is begins, if there is room; nobody overtakes a large one."""
        while self._waiting and self._engine.fits(self._waiting.first()):
            self._engine.start(self._waiting.pop())

    def _tell_places(self) -> None:
        """Those that wait hear how many are ahead of them, when that has changed."""
        if not self._waiting and not self._told:
            return
        places = {request: ahead for ahead, request in enumerate(self._waiting.order())}
        news = places.items() - self._told.items()
        self._told = places
        self._emit([Queued(request, ahead) for request, ahead in news])

    def _events(self, event: base.Event, began: float) -> list[Event]:
        """What a step that began then has to say."""
        request, index = event.id
        answer = self._answers.get(request)
        if answer is None:  # another of its sequences broke in this very step
            return []
        match event:
            case Admitted():
                prompt_tokens = len(answer.group.prompt)
                cached, written = event.cached_tokens, answer.tool_format
                started = Started(request, prompt_tokens, cached, began, written)
                return [started, *answer.begin()]
            case Scored():
                return answer.read(event.draw)
            case Sampled():
                events = answer.push(index, event.draw, self._clock())
                if isinstance(events[-1], Finished):
                    self._engine.release(event.id)
                    if answer.over:
                        self._forget(request)
                return events
            case Broken():
                self._forget(request)
                return [Failed(request, event.code, event.message)]

    def _forget(self, request: int) -> None:
        self._preparing.leave(request)
        self._waiting.leave(request)
        if answer := self._answers.pop(request, None):
            for index in range(len(answer.group.sequences)):
                self._engine.release(Id(request, index))

    def _emit(self, events: list[Event], *, batch: int = 0) -> None:
        if events:
            self._send(Events(tuple(events), batch, self._engine.kv_tokens))
