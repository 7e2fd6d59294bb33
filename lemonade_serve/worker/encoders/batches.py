"""Which rows are read together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_ROW_TOKENS: Final = 8
"""A row counts for so many tokens at least."""
_FREE_PADDING: Final = 64
"""Tokens of padding that cost less than another run does."""
_PADDING_SHARE: Final = 0.25


def weight(tokens: int) -> int:
    """What a row takes of a batch's bound."""
    return max(tokens, _ROW_TOKENS)


def batches(rows: Sequence[T], length: Callable[[T], int], *, bound: int) -> list[list[T]]:
    """The rows, the longest first, in batches of at most `bound` tokens, padding included; a longer
    row is a batch by itself. Of a batch a quarter is padding, or next to nothing."""
    made: list[list[T]] = []
    longest = tokens = padding = 0
    for row in sorted(rows, key=length, reverse=True):
        own = length(row)
        added = padding + longest - own
        wasteful = added > max(_FREE_PADDING, _PADDING_SHARE * tokens)
        if not made or wasteful or (len(made[-1]) + 1) * weight(longest) > bound:
            made.append([])
            longest, tokens, added = own, 0, 0
        made[-1].append(row)
        tokens, padding = tokens + own, added
    return made
