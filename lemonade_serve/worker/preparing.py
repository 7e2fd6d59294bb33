"""What a request needs before it can begin, made beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Work
from lemonade_serve.worker.guidance import COMPILER_STACK_BYTES, GrammarMask
from lemonade_serve.worker.waiting import Waiting


class Prepared(NamedTuple):
    """The request may begin, with a mask for each of its sequences; or it failed."""

    request: int
    work: Work
    masks: Sequence[GrammarMask] = ()
    failure: errors.LemonadeError | None = None


class Preparing:
    """One request after the other, each in a thread of its own, which gives its stack back; clients
    take turns here too.

    `prepare` runs in that thread, and so does `deliver`, once for each request that got its turn;
    `next` must be called then. Everything else is of the loop's thread. Nothing ends native code
    that takes longer than `timeout_s`, or bounds its memory: `give_up` is called, and should end
    the process.
    """

    def __init__(
        self,
        prepare: Callable[[Work], Sequence[GrammarMask]],
        deliver: Callable[[Prepared], None],
        *,
        timeout_s: float,
        give_up: Callable[[], None],
    ) -> None:
        self._prepare = prepare
        self._timeout_s = timeout_s
        self._give_up = give_up
        self._deliver = deliver
        self._waiting: Waiting[tuple[int, Work]] = Waiting()
        self._busy = False

    def enter(self, request: int, work: Work) -> None:
        self._waiting.enter(request, (request, work), work.client, work.weight)
        if not self._busy:
            self.next()

    def leave(self, request: int) -> None:
        """Nobody wants it any more; one that has its turn already is delivered all the same."""
        self._waiting.leave(request)

    def next(self) -> None:
        """The one before was delivered."""
        self._busy = bool(self._waiting)
        if self._busy:
            request, work = self._waiting.pop()
            late = threading.Timer(self._timeout_s, self._give_up)
            late.daemon = True
            try:
                late.start()  # here, where stacks have their usual size
                _start(lambda: self._run(request, work, late), request)
            except RuntimeError:  # the system has no thread for it, or no room for its stack
                late.cancel()
                failure = errors.NoCapacity("there is no thread to prepare this request in")
                self._deliver(Prepared(request, work, failure=failure))

    def _run(self, request: int, work: Work, late: threading.Timer) -> None:
        try:
            prepared = Prepared(request, work, masks=self._prepare(work))
        except errors.LemonadeError as failure:
            prepared = Prepared(request, work, failure=failure)
        except BaseException as error:  # a panic of native code is no Exception
            why = f"the request could not be prepared: {type(error).__name__}"
            prepared = Prepared(request, work, failure=errors.GenerationFailed(why))
        late.cancel()
        self._deliver(prepared)


def _start(run: Callable[[], None], request: int) -> None:
    usual = threading.stack_size(COMPILER_STACK_BYTES)
    try:
        name = f"preparing-{request}"
        threading.Thread(target=run, name=name, daemon=True).start()
    finally:
        threading.stack_size(usual)
