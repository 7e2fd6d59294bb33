"""Who is next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lemonade_serve.worker.waiting import Waiting


def queue(*entries: tuple[int, str, float]) -> Waiting[str]:
    waiting: Waiting[str] = Waiting()
    for request, client, weight in entries:
        waiting.enter(request, f"thing {request}", client, weight)
    return waiting


def served(waiting: Waiting[str]) -> list[int]:
    requests = []
    while waiting:
        request = waiting.order()[0]
        assert waiting.first() == f"thing {request}" == waiting.pop()
        requests.append(request)
    return requests


def test_one_client_is_served_in_order_of_arrival() -> None:
    assert served(queue((3, "a", 1), (1, "a", 1), (2, "a", 1))) == [3, 1, 2]


def test_clients_take_turns_however_many_requests_one_has() -> None:
    waiting = queue((1, "a", 1), (2, "a", 1), (3, "a", 1), (4, "b", 1), (5, "b", 1), (6, "c", 1))
    assert served(waiting) == [1, 4, 6, 2, 5, 3]


def test_a_client_of_weight_two_has_two_turns_for_one() -> None:
    waiting = queue(
        *((n, "heavy", 2.0) for n in range(40)), *((n, "b", 1.0) for n in range(40, 80))
    )
    first = Counter("heavy" if request < 40 else "b" for request in served(waiting)[:30])
    assert first == {"heavy": 20, "b": 10}


def test_a_client_that_was_away_has_nothing_saved_up() -> None:
    waiting = queue(*((n, "a", 1.0) for n in range(10)))
    for _ in range(5):
        waiting.pop()
    for n in (20, 21, 22):
        waiting.enter(n, f"thing {n}", "b", 1.0)
    assert served(waiting) == [20, 5, 21, 6, 22, 7, 8, 9]


def test_newcomers_without_end_keep_nobody_from_a_second_turn() -> None:
    waiting = queue((1, "a", 1), (2, "a", 1))
    assert waiting.pop() == "thing 1"
    begun = []
    for n in range(10, 20):
        waiting.enter(n, f"thing {n}", f"client {n}", 1.0)
        begun.append(waiting.pop())
    assert "thing 2" in begun[:3]


def test_clients_that_have_nothing_left_are_forgotten() -> None:
    waiting = queue()
    for n in range(100):
        waiting.enter(n, f"thing {n}", f"client {n}", 1.0)
        waiting.pop()
    assert len(waiting._clients) < 5


def test_of_those_whose_turn_comes_together_the_one_that_waits_longest_is_first() -> None:
    waiting = queue((1, "a", 1), (2, "c", 1))
    assert waiting.pop() == "thing 1"  # so that a has its next turn later, and c is next
    assert waiting.pop() == "thing 2"
    waiting.enter(3, "thing 3", "c", 1.0)
    waiting.enter(4, "thing 4", "a", 1.0)
    assert served(waiting) == [3, 4]


def test_who_leaves_gets_the_turn_back() -> None:
    waiting = queue((1, "a", 1), (2, "b", 1), (3, "b", 1))
    for n in range(10, 20):
        waiting.enter(n, "never", "a", 1.0)
    for n in range(10, 20):
        waiting.leave(n)
    waiting.enter(4, "thing 4", "a", 1.0)
    waiting.leave(99)
    assert served(waiting) == [1, 2, 4, 3]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.5, 1.0, 3.0])), max_size=60),
    st.data(),
)
def test_nobody_is_lost_and_each_client_keeps_its_own_order(
    entries: list[tuple[int, float]], data: st.DataObject
) -> None:
    waiting: Waiting[int] = Waiting()
    alive, got = [], []
    for request, (client, weight) in enumerate(entries):
        waiting.enter(request, client, str(client), weight)
        alive.append(request)
        move = data.draw(st.sampled_from(["none", "pop", "leave"]))
        if move == "pop":
            head = waiting.order()[0]
            assert waiting.pop() == entries[head][0]
            alive.remove(head)
            got.append(head)
        elif move == "leave":
            gone = data.draw(st.sampled_from(alive)) if alive else 0
            waiting.leave(gone)
            alive = [one for one in alive if one != gone]
    assert sorted(waiting.order()) == alive
    while waiting:
        got.append(waiting.order()[0])
        waiting.pop()
    for client in range(5):
        mine = [request for request in got if entries[request][0] == client]
        assert mine == sorted(mine)


def test_no_client_waits_for_more_than_its_share() -> None:
    """Between two turns of a client that always has something, every other has one at most."""
    waiting: Waiting[int] = Waiting()
    backlog = {"a": 5, "b": 5, "c": 5}
    request = 0
    for client, count in backlog.items():
        for _ in range(count):
            waiting.enter(request, request, client, 1.0)
            request += 1
    order = [request // 5 for request in waiting.order()]
    assert order == [0, 1, 2] * 5
