"""Answers that are kept a while: for how long, how many, how large, and for whom."""

from __future__ import annotations

import pytest

from lemonade_serve.domain.conversations import Conversations, Turn
from lemonade_serve.errors import ResponseNotFound
from lemonade_serve.protocol.messages import Message

ROOM = 10_000


def turn(id: str, text: str = "Hi") -> Turn:
    return Turn(id=id, messages=(Message("user", text),), answer=b"{}", items=b"[]")


def conversations(
    *, keep_s: float = 60, max_kept: int = 100, max_kept_bytes: int = ROOM
) -> Conversations:
    return Conversations(keep_s=keep_s, max_kept=max_kept, max_kept_bytes=max_kept_bytes)


def kept(store: Conversations, *ids: str, now: float = 0) -> list[str]:
    """Which of them are still there, looked at in this order."""
    found = []
    for id in ids:
        try:
            found.append(store.find("ali", id, now).id)
        except ResponseNotFound:
            continue
    return found


def test_what_is_kept_is_found() -> None:
    store = conversations()
    store.keep("ali", turn("a", "Hello"), 0)
    assert store.find("ali", "a", 1) == turn("a", "Hello")
    assert store.kept_bytes == turn("a", "Hello").size_bytes


def test_another_clients_is_as_good_as_none() -> None:
    store = conversations()
    store.keep("ali", turn("a"), 0)
    for client, id in [("bob", "a"), ("ali", "b"), ("ali/x", "a")]:
        with pytest.raises(ResponseNotFound):
            store.find(client, id, 0)
        with pytest.raises(ResponseNotFound):
            store.forget(client, id, 0)
    assert kept(store, "a") == ["a"]


def test_what_is_forgotten_is_gone_and_its_room_is_free() -> None:
    store = conversations()
    store.keep("ali", turn("a"), 0)
    store.forget("ali", "a", 0)
    assert (kept(store, "a"), len(store), store.kept_bytes) == ([], 0, 0)


def test_after_its_time_it_is_gone_even_if_it_was_used() -> None:
    store = conversations(keep_s=60)
    store.keep("ali", turn("a"), 100)
    assert kept(store, "a", now=159.9) == ["a"]
    assert kept(store, "a", now=160) == []
    assert store.kept_bytes == 0


def test_what_is_past_its_time_is_let_go_of_whoever_asks_for_what() -> None:
    store = conversations(keep_s=60)
    store.keep("ali", turn("a"), 0)
    store.keep("bob", turn("b"), 100)
    assert len(store) == 1


def test_who_lets_go_of_them_hears_when_there_may_be_more() -> None:
    store = conversations(keep_s=60)
    assert store.expire(0) == 60
    store.keep("ali", turn("a"), 10)
    store.keep("ali", turn("b"), 20)
    assert (store.expire(30), len(store)) == (40, 2)
    assert (store.expire(70), len(store)) == (10, 1)


def test_at_the_number_the_least_recently_used_makes_room() -> None:
    store = conversations(max_kept=3)
    for id in "abc":
        store.keep("ali", turn(id), 0)
    store.find("ali", "a", 0)
    store.keep("bob", turn("d"), 0)
    assert kept(store, "a", "b", "c") == ["a", "c"]
    assert len(store) == 3


def test_at_the_bytes_as_many_make_room_as_it_takes() -> None:
    one = turn("a").size_bytes
    store = conversations(max_kept_bytes=3 * one)
    for id in "abc":
        store.keep("ali", turn(id), 0)
    assert kept(store, "a", "b", "c") == ["a", "b", "c"]
    store.keep("ali", turn("d", "Hi" + "!" * one), 0)
    assert kept(store, "a", "b", "c", "d") == ["c", "d"]
    assert store.kept_bytes <= 3 * one


def test_one_that_fills_all_the_room_is_kept_and_a_larger_one_is_not() -> None:
    exactly = turn("a").size_bytes
    store = conversations(max_kept_bytes=exactly)
    store.keep("ali", turn("a"), 0)
    store.keep("ali", turn("b", "Hi!"), 0)
    assert kept(store, "a", "b") == ["a"]
    store.keep("ali", turn("c"), 0)
    assert kept(store, "a", "c") == ["c"]


def test_where_none_may_be_kept_none_is() -> None:
    store = conversations(max_kept=0)
    store.keep("ali", turn("a"), 0)
    assert (len(store), store.kept_bytes) == (0, 0)
