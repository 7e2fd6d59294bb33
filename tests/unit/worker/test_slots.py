"""Who has which row of the KV cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lemonade_serve.worker.engines.slots import Slot, Slots


def ended(slots: Slots, tokens: list[int], *, new: int = 10) -> Slot:
    """A sequence that ran and left its tokens behind."""
    (slot,), _ = slots.take(tokens, 1, len(tokens) + new)
    del slot.tokens[:]
    slot.extend(tokens)
    slots.leave(slot)
    return slot


def test_a_sequence_gets_an_empty_slot_before_one_that_knows_something() -> None:
    slots = Slots(3, 1000)
    known = ended(slots, [1, 2, 3])
    (one, two), given_back = slots.take([7, 8], 2, 20)
    assert known not in (one, two)
    assert given_back == []


def test_of_those_that_know_something_the_least_recently_used_goes() -> None:
    slots = Slots(3, 1000)
    first, second, third = (ended(slots, [n, n, n]) for n in (1, 2, 3))
    ended(slots, [1, 1, 1])
    (taken,), given_back = slots.take([7, 8], 1, 20)
    assert taken is second
    assert given_back == []  # its pages are written to again
    assert second.tokens == []
    assert first.tokens == [1, 1, 1]
    assert third.tokens == [3, 3, 3]


def test_a_prompt_goes_on_in_the_slot_most_of_which_it_needs() -> None:
    slots = Slots(3, 1000)
    ended(slots, [5, 6])
    known = ended(slots, [1, 2, 3, 4, 5])
    (taken,), given_back = slots.take([1, 2, 3, 9], 1, 50)
    assert taken is known
    assert given_back == []


def test_a_slot_that_knows_much_more_is_kept_and_copied_from() -> None:
    slots = Slots(3, 1000)
    known = ended(slots, list(range(100)))
    prompt = [0, 1, 2, 999]
    (taken,), given_back = slots.take(prompt, 1, 50)
    assert taken is not known
    assert given_back == []
    assert slots.best_source(prompt) == (known, 3)


def test_what_was_read_a_token_at_a_time_is_lent_to_nobody() -> None:
    slots = Slots(2, 1000)
    known = ended(slots, [1, 2, 3, 4])
    known.lends = False
    assert slots.best_source([1, 2, 3, 4]) == (None, 0)
    taken, _ = slots.take([1, 2, 3, 4], 2, 20)
    assert all(slot.lends and not slot.tokens for slot in taken)


def test_where_all_slots_are_taken_one_that_is_of_use_goes_on_with_what_it_knows() -> None:
    slots = Slots(1, 1000)
    known = ended(slots, list(range(100)))
    prompt = [0, 1, 2, 999]
    assert slots.take(prompt, 1, 150) == ([known], [])
    assert slots.best_source(prompt) == (known, 3)


def test_the_oldest_is_not_taken_while_it_is_copied_from() -> None:
    slots = Slots(3, 1000)
    oldest, middle, _ = (ended(slots, [n] * 60) for n in (1, 2, 3))
    prompt = [1, 1, 1, 999]
    (taken,), given_back = slots.take(prompt, 1, 80)
    assert taken is middle
    assert given_back == []
    assert slots.best_source(prompt) == (oldest, 3)


def test_of_those_that_know_the_same_beginning_the_oldest_is_taken() -> None:
    slots = Slots(3, 1000)
    oldest, _, _ = (ended(slots, [0] + [n] * 60) for n in (1, 2, 3))
    (taken,), _ = slots.take([0, 999], 1, 80)
    assert taken is oldest


def test_the_oldest_is_not_given_back_while_it_is_copied_from() -> None:
    slots = Slots(4, 100)
    oldest, middle, _ = (ended(slots, [n] * 30) for n in (1, 2, 3))
    _, given_back = slots.take([1, 1, 1, 999], 1, 30)
    assert given_back == [middle]
    assert slots.best_source([1, 1, 1, 999]) == (oldest, 3)


def test_one_that_cannot_be_kept_is_used_itself() -> None:
    slots = Slots(3, 120)
    known = ended(slots, list(range(100)))
    (taken,), given_back = slots.take([0, 1, 2, 999], 1, 110)
    assert taken is known
    assert given_back == []


def test_the_oldest_memories_go_when_the_tokens_are_needed() -> None:
    slots = Slots(4, 100)
    oldest, middle, newest = (ended(slots, [n] * 30) for n in (1, 2, 3))
    (taken,), given_back = slots.take([9], 1, 35)
    assert taken not in (oldest, middle, newest)
    assert given_back == [oldest]
    for slot in given_back:
        slot.forget()
    assert slots.promised == 35


def test_what_runs_is_never_given_back() -> None:
    slots = Slots(2, 100)
    (running,), _ = slots.take([1], 1, 60)
    running.extend([1] * 5)
    assert not slots.fit(1, 41)
    assert slots.fit(1, 40)
    assert not slots.fit(2, 10)
    (other,), given_back = slots.take([1], 1, 40)
    assert other is not running
    assert given_back == []


def test_a_row_that_was_written_further_than_it_will_be_is_given_back() -> None:
    slots = Slots(1, 1000)
    known = ended(slots, [1] * 50)
    assert slots.take([7, 8], 1, 20) == ([known], [known])
    known.forget()
    assert slots.promised == 20


def test_nothing_is_known_of_a_prompt_that_begins_with_something_new() -> None:
    slots = Slots(2, 100)
    ended(slots, [1, 2, 3])
    assert slots.best_source([4, 1, 2, 3]) == (None, 0)


def test_exchanged_rows_are_found_by_their_new_numbers() -> None:
    slots = Slots(3, 100)
    one, other = slots.at(0), slots.at(2)
    slots.exchange(0, 2)
    assert (slots.at(2), slots.at(0)) == (one, other)
    assert (one.row, other.row) == (2, 0)


@given(st.data())
def test_all_slots_together_never_hold_more_than_there_is(data: st.DataObject) -> None:
    capacity = 200
    slots = Slots(5, capacity)
    running: list[Slot] = []
    token = st.integers(0, 2)
    for _ in range(data.draw(st.integers(1, 40))):
        if running and data.draw(st.booleans()):
            slot = data.draw(st.sampled_from(running))
            running.remove(slot)
            slots.leave(slot)
        else:
            prompt = data.draw(st.lists(token, min_size=1, max_size=60))
            count, tokens = (
                data.draw(st.integers(1, 3)),
                len(prompt) + data.draw(st.integers(1, 60)),
            )
            if not slots.fit(count, tokens):
                continue
            taken, given_back = slots.take(prompt, count, tokens)
            assert len({slot.row for slot in taken}) == count
            assert not set(map(id, given_back)) & set(map(id, running))
            for slot in given_back:
                slot.forget()
            for slot in taken:
                assert slot not in running
                del slot.tokens[:]
                slot.extend(prompt)
                slot.extend([0] * data.draw(st.integers(0, tokens - len(prompt))))
            running += taken
        assert sum(slots.at(row).held for row in range(5)) <= capacity
        assert slots.promised == sum(slot.held for slot in running)
