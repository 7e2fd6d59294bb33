"""Sequence slots: who has which row of the KV cache, and what idle ones still know. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Some
from dataclasses import dataclass, field

from lemonade_serve.worker.engines.base import common_prefix


@dataclass(kw_only=True, eq=False)
class Slot:
    """One sequence's place, which an ended one leaves with what it knew."""

    row: int
    tokens: list[int] = field(default_factory=list)
    """Those whose keys and values its row holds."""
    written: int = 0
    """So much of its row has been written to and takes memory, in tokens."""
    promised: int = 0
    """What its running sequence may come to need, in tokens; 0: none runs."""
    last_use: int = 0
    lends: bool = True
    """Whether others may go on from what it knows. What was read a token at a time is rounded
    otherwise than in chunks, and a prompt shall give the same whatever came before it."""

    @property
    def idle(self) -> bool:
        return not self.promised

    @property
    def held(self) -> int:
        """What it takes of the KV cache, in tokens."""
        return max(self.promised, self.written)

    def shares(self, prompt: Some[int]) -> int:
        """With so many of its first tokens it can help a prompt."""
        return common_prefix(self.tokens, prompt) if self.lends else 0

    def extend(self, tokens: Some[int]) -> None:
        """Its row holds these too."""
        self.tokens.extend(tokens)
        self.written = max(self.written, len(self.tokens))

    def forget(self) -> None:
        """Its row's memory is given back."""
        self.tokens.clear()
        self.written = 0


class Slots:
    """`count` slots, all of which together hold at most `capacity` tokens."""

    def __init__(self, count: int, capacity: int, *, first_row: int = 0) -> None:
        self._slots = [Slot(row=first_row + n) for n in range(count)]
        """By row."""
        self._first_row = first_row
        self._capacity = capacity
        self._clock = itertools.count(1)

    @property
    def promised(self) -> int:
        """Tokens that running sequences have to themselves."""
        return sum(slot.held for slot in self._slots if not slot.idle)

    def at(self, row: int) -> Slot:
        return self._slots[row - self._first_row]

    def exchange(self, one: int, other: int) -> None:
        """Two rows have changed places."""
        a, b = one - self._first_row, other - self._first_row
        slots = self._slots
        slots[a], slots[b] = slots[b], slots[a]
        slots[a].row, slots[b].row = one, other

    def fit(self, count: int, tokens: int) -> bool:
        """Whether `count` sequences of so many tokens can have slots."""
        free = sum(slot.idle for slot in self._slots)
        return count <= free and self.promised + count * tokens <= self._capacity

    def take(self, prompt: Some[int], count: int, tokens: int) -> tuple[list[Slot], list[Slot]]:
        """Slots for `count` sequences that fit, the one that knows most of `prompt` first; and
        those slots, now empty, whose rows have to be given back for them.

        A slot most of which is of use goes on with its own row, and so does one of any use where
        all of them are taken. Otherwise one of which others may want more keeps what it has, if
        there is room for that, and is copied from (`best_source`).
        """
        idle = sorted((slot for slot in self._slots if slot.idle), key=lambda slot: slot.last_use)
        free = self._capacity - self.promised
        best = max(reversed(idle), key=lambda slot: slot.shares(prompt))
        shared = best.shares(prompt)
        kept_anyway = 2 * shared < len(best.tokens) and best.written <= free - count * tokens
        fits = max(best.written, tokens) + (count - 1) * tokens <= free
        own = bool(shared) and fits and (count == len(idle) or not kept_anyway)
        # Empty ones go before those that know something, these by age, the one to copy from last.
        others = sorted(idle, key=lambda slot: (bool(shared) and slot is best, slot.written > 0))
        if own:
            others.insert(0, others.pop(others.index(best)))
        taken, kept = others[:count], [slot for slot in others[count:] if slot.written]
        given_back = []
        for slot in taken:
            if not (own and slot is best):
                slot.tokens.clear()
                if slot.written > tokens:
                    given_back.append(slot)
                    slot.forget()
            slot.promised = tokens
            slot.lends = True
            slot.last_use = next(self._clock)
        for slot in kept:
            if sum(slot.held for slot in self._slots) <= self._capacity:
                break
            given_back.append(slot)
            slot.forget()
        return taken, given_back

    def best_source(self, prompt: Some[int]) -> tuple[Slot | None, int]:
        """The slot that knows most of a prompt, and how many of its tokens."""
        known = [(slot.shares(prompt), slot) for slot in self._slots]
        shared, slot = max(known, key=lambda pair: pair[0])
        return (slot, shared) if shared else (None, 0)

    def leave(self, slot: Slot) -> None:
        """Its sequence has ended."""
        slot.promised = 0
        slot.last_use = next(self._clock)
