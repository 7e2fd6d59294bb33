"""What becomes of each request that has something prepared, without a loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Work
from lemonade_serve.worker import preparing
from lemonade_serve.worker.guidance import GrammarMask
from lemonade_serve.worker.preparing import Prepared, Preparing
from tests.unit.worker.test_loop import generate

DEADLINE_S = 60.0
Masks = Sequence[GrammarMask]


class Kitchen:
    """Prepares requests, one at a time, while its door is open."""

    def __init__(self, prepare: Callable[[], Masks] = tuple) -> None:
        self.door = threading.Event()
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        """Whose requests were begun: their clients."""
        self.gave_up = threading.Event()
        self._make = prepare
        self._alone = threading.Lock()
        self._crowded = threading.Event()
        self._delivered: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
        self._preparing = Preparing(
            self._prepare, self._delivered.put, timeout_s=DEADLINE_S, give_up=self.gave_up.set
        )

    def enter(self, request: int, client: str = "anyone", weight: float = 1.0) -> None:
        self._preparing.enter(request, generate(request, client=client, weight=weight).work)

    def leave(self, request: int) -> None:
        self._preparing.leave(request)

    def serve(self) -> Prepared:
        """The next one that is done; whoever is next begins."""
        prepared = self._delivered.get(timeout=DEADLINE_S)
        assert not self._crowded.is_set()
        self._preparing.next()
        return prepared

    def served(self, count: int) -> list[int]:
        self.door.set()
        return [self.serve().request for _ in range(count)]

    @property
    def quiet(self) -> bool:
        """Nothing was begun that was not served."""
        return self.begun.empty() and self._delivered.empty()

    def _prepare(self, work: Work) -> Masks:
        self.begun.put(work.client)
        if not self._alone.acquire(blocking=False):
            self._crowded.set()
            return ()
        try:
            self.door.wait(DEADLINE_S)
            return self._make()
        finally:
            self._alone.release()


def failing(error: BaseException) -> Callable[[], Masks]:
    def prepare() -> Masks:
        raise error

    return prepare


def test_one_is_prepared_after_the_other_in_their_order() -> None:
    kitchen = Kitchen()
    for request in (3, 1, 2):
        kitchen.enter(request)
    assert kitchen.served(3) == [3, 1, 2]


def test_the_next_begins_when_the_one_before_was_taken() -> None:
    kitchen = Kitchen()
    kitchen.enter(1, client="one")
    kitchen.enter(2, client="two")
    assert kitchen.begun.get(timeout=DEADLINE_S) == "one"
    assert kitchen.quiet
    kitchen.door.set()
    assert kitchen.serve().request == 1
    assert kitchen.begun.get(timeout=DEADLINE_S) == "two"
    assert kitchen.serve().request == 2


def test_what_was_made_is_delivered_with_its_request() -> None:
    made: list[GrammarMask] = []
    kitchen = Kitchen(lambda: made)
    kitchen.enter(1)
    kitchen.door.set()
    prepared = kitchen.serve()
    assert prepared.masks is made
    assert prepared.work == generate(1).work
    assert prepared.failure is None


def test_the_kitchen_can_be_idle_and_begin_again() -> None:
    kitchen = Kitchen()
    for request in (1, 2):
        kitchen.enter(request)
        assert kitchen.served(1) == [request]


def test_clients_take_turns_by_their_weight() -> None:
    kitchen = Kitchen()
    for request in (1, 2, 3, 4, 5):
        kitchen.enter(request, client="many")
    for request in (7, 8, 9):
        kitchen.enter(request, client="heavy", weight=2.0)
    assert kitchen.served(8) == [1, 7, 8, 2, 9, 3, 4, 5]


def test_who_leaves_before_its_turn_is_not_prepared() -> None:
    kitchen = Kitchen()
    for request in (1, 2, 3):
        kitchen.enter(request)
    kitchen.leave(2)
    kitchen.leave(99)
    assert kitchen.served(2) == [1, 3]
    assert [kitchen.begun.get(timeout=DEADLINE_S) for _ in (1, 3)] == ["anyone"] * 2
    assert kitchen.quiet


def test_who_leaves_during_its_turn_is_delivered_all_the_same() -> None:
    kitchen = Kitchen()
    kitchen.enter(1)
    kitchen.leave(1)
    assert kitchen.served(1) == [1]


@pytest.mark.parametrize(
    "refusal",
    [errors.InvalidRequest("no", param="regex"), errors.NoCapacity("later")],
)
def test_a_refusal_is_delivered_as_it_is(refusal: errors.LemonadeError) -> None:
    kitchen = Kitchen(failing(refusal))
    kitchen.enter(1)
    kitchen.door.set()
    prepared = kitchen.serve()
    assert prepared.failure is refusal
    assert prepared.masks == ()


class Panic(BaseException):
    """As native code has them."""


@pytest.mark.parametrize("error", [OSError("secret"), Panic("secret"), SystemExit("secret")])
def test_any_other_error_is_a_failure_that_does_not_tell_its_text(error: BaseException) -> None:
    kitchen = Kitchen(failing(error))
    kitchen.enter(1)
    kitchen.door.set()
    failure = kitchen.serve().failure
    assert isinstance(failure, errors.GenerationFailed)
    assert type(error).__name__ in failure.message
    assert "secret" not in failure.message


def test_a_failure_keeps_nobody_else_from_a_turn() -> None:
    kitchen = Kitchen(failing(Panic()))
    for request in (1, 2, 3):
        kitchen.enter(request)
    assert kitchen.served(3) == [1, 2, 3]


def test_what_was_made_in_time_is_not_given_up_later() -> None:
    kitchen = Kitchen()
    kitchen.enter(1)
    assert kitchen.served(1) == [1]
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert not kitchen.gave_up.is_set()


def test_without_a_thread_there_is_no_capacity_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kitchen = Kitchen()
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "COMPILER_STACK_BYTES", 1 << 60)  # more than there are addresses
        kitchen.enter(1)
        kitchen.enter(2)
        for request in (1, 2):
            prepared = kitchen.serve()
            assert prepared.request == request
            assert isinstance(prepared.failure, errors.NoCapacity)
    assert kitchen.begun.empty()
    kitchen.enter(3)
    kitchen.door.set()
    assert kitchen.serve().failure is None


def test_without_a_thread_for_the_watch_there_is_no_capacity_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    kitchen = Kitchen()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", start)
        kitchen.enter(1)
        assert isinstance(kitchen.serve().failure, errors.NoCapacity)
    kitchen.enter(2)
    kitchen.door.set()
    assert kitchen.serve().failure is None


def test_threads_that_others_start_later_have_the_stack_they_had() -> None:
    usual = threading.stack_size(1 << 20)
    kitchen = Kitchen()
    kitchen.enter(1)
    assert threading.stack_size(usual) == 1 << 20
    assert kitchen.served(1) == [1]
