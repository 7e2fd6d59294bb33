"""Rows that are read together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lemonade_serve.worker.encoders.batches import batches, weight


def cut(*lengths: int, bound: int = 1024) -> list[list[int]]:
    return batches(lengths, lambda length: length, bound=bound)


def test_nothing_is_no_batch() -> None:
    assert cut() == []


def test_rows_of_like_length_are_one_batch_the_longest_first() -> None:
    assert cut(9, 10, 8, 10) == [[10, 10, 9, 8]]


def test_a_long_row_takes_no_short_ones_along() -> None:
    assert cut(3, 250, 4, 5) == [[250], [5, 4, 3]]


def test_few_short_rows_are_not_worth_a_run_of_their_own() -> None:
    assert cut(30, 5, 20) == [[30, 20, 5]]


def test_a_batch_is_as_long_as_the_bound_allows() -> None:
    assert cut(*[100] * 5, bound=250) == [[100, 100], [100, 100], [100]]


def test_a_row_over_the_bound_is_a_batch_by_itself() -> None:
    assert cut(300, 290, bound=250) == [[300], [290]]


def test_the_shortest_rows_count_for_something_too() -> None:
    assert [len(batch) for batch in cut(*[1] * 10, bound=32)] == [4, 4, 2]


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(16, 2048))
def test_every_row_is_in_one_batch_and_no_batch_is_over_the_bound(
    lengths: list[int], bound: int
) -> None:
    made = cut(*lengths, bound=bound)
    assert sorted(row for batch in made for row in batch) == sorted(lengths)
    for batch in made:
        assert len(batch) == 1 or len(batch) * weight(batch[0]) <= bound
        padding = sum(batch[0] - row for row in batch)
        assert padding <= max(64, 0.25 * sum(batch))
