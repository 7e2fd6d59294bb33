"""The worker's two threads: one reads commands, one owns the engine and sends what it does."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
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
    Report,
    Started,
)
from lemonade_serve.worker.engines.base import Admitted, Broken, Engine, Sampled, Sequence, Step
from lemonade_serve.worker.generation import Generation
from lemonade_serve.worker.sampler import Sampler
from lemonade_serve.worker.text import Detokenizer
from lemonade_serve.worker.vocabulary import Vocabulary, field_of

Inbox = queue.SimpleQueue[Command]


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


class Loop:
    """Runs requests on the engine, for ever; each step's events leave as one frame."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        inbox: Inbox,
        send: Callable[[Report], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._inbox = inbox
        self._send = send
        self._clock = clock
        self._generations: dict[int, Generation] = {}
        self._prompt_tokens: dict[int, int] = {}

    def run(self) -> NoReturn:
        while True:
            self._obey()
            if not self._engine.idle:
                self._emit([event for step in self._engine.step() for event in self._events(step)])

    def _obey(self) -> None:
        """Take every command that is there; with nothing to do, wait for one."""
        while True:
            try:
                command = self._inbox.get(block=self._engine.idle)
            except queue.Empty:
                return
            match command:
                case Generate():
                    self._begin(command)
                case Cancel(request):
                    self._forget(request)
                case _:
                    raise TypeError(f"a worker that serves got {type(command).__name__}")

    def _begin(self, command: Generate) -> None:
        request, params = command.request, command.params
        try:
            prompt = self._vocabulary.encode(command.prompt)
            room = self._vocabulary.context_length - len(prompt)
            if room < 1:
                raise errors.ContextLengthExceeded(
                    f"the prompt has {len(prompt)} tokens; this model's context is "
                    f"{self._vocabulary.context_length}, and at least one is generated",
                    param=field_of(command.prompt),
                )
        except errors.LemonadeError as error:
            self._emit([Failed(request, error.code, error.message, error.param)])
            return
        except Exception as error:  # one request's trouble is not the others'; its text stays here
            failure = f"the prompt could not be read: {type(error).__name__}"
            self._emit([Failed(request, errors.GenerationFailed.code, failure)])
            return
        max_tokens = min(params.max_length, room)
        eos_ids = self._vocabulary.eos_ids
        self._prompt_tokens[request] = len(prompt)
        self._generations[request] = Generation(
            request,
            params,
            max_tokens=max_tokens,
            eos_ids=eos_ids,
            detokenizer=Detokenizer(self._vocabulary.decode, prompt),
        )
        sampler = Sampler(params, prompt, eos_ids)
        self._engine.submit(Sequence(request, prompt, max_tokens, sampler))

    def _events(self, step: Step) -> list[Event]:
        match step:
            case Admitted(request, cached_tokens):
                prompt_tokens = self._prompt_tokens[request]
                return [Started(request, prompt_tokens, cached_tokens, self._clock())]
            case Sampled(request, token):
                events = self._generations[request].push(token, self._clock())
                if isinstance(events[-1], Finished):
                    self._forget(request)
                return events
            case Broken(request, message, code):
                self._forget(request)
                return [Failed(request, code, message)]

    def _forget(self, request: int) -> None:
        self._engine.release(request)
        self._generations.pop(request, None)
        self._prompt_tokens.pop(request, None)

    def _emit(self, events: list[Event]) -> None:
        if events:
            self._send(Events(tuple(events)))
