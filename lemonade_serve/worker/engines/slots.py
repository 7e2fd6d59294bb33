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

    @property
    def idle(self) -> bool:
        return not self.promised

    @property
    def held(self) -> int:
        """What it takes of the KV cache, in tokens."""
        return max(self.promised, self.written)

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
        those slots whose rows have to be given back for them.

        A slot most of which is of use goes on with its own row, and so does one of any use where
        all of them are taken. Otherwise one of which others may want more keeps what it has, if
        there is room for that, and is copied from (`best_source`).
        """
        idle = sorted((slot for slot in self._slots if slot.idle), key=lambda slot: slot.last_use)
        free = self._capacity - self.promised
        room = free - count * tokens
        best = max(idle, key=lambda slot: common_prefix(slot.tokens, prompt))
        shared = common_prefix(best.tokens, prompt)
        mostly = 2 * shared >= len(best.tokens) or best.written > room or count == len(idle)
        fits = max(best.written, tokens) + (count - 1) * tokens <= free
        first = [best] if shared and mostly and fits else []
        if shared:  # the newest of those that can be copied from is the last to go
            source = max(reversed(idle), key=lambda slot: common_prefix(slot.tokens, prompt))
            idle.sort(key=lambda slot: slot is source)
        # Empty ones go before those that know something, and these by age.
        others = sorted((slot for slot in idle if slot not in first), key=lambda s: s.written > 0)
        taken = (first + others)[:count]
        given_back = [slot for slot in taken if slot not in first and slot.written > tokens]
        kept = [slot for slot in idle if slot not in taken and slot.written]
        for slot in taken:
            if slot not in first:
                slot.tokens.clear()
            slot.promised = tokens
            slot.last_use = next(self._clock)
        over = sum(slot.held for slot in first) - tokens * len(first) - room
        over += sum(slot.written for slot in kept)
        for slot in kept:
            if over <= 0:
                break
            given_back.append(slot)
            over -= slot.written
        return taken, given_back

    def best_source(self, prompt: Some[int]) -> tuple[Slot | None, int]:
        """The slot that knows most of a prompt, and how many of its tokens."""
        known = [(common_prefix(slot.tokens, prompt), slot) for slot in self._slots]
        shared, slot = max(known, key=lambda pair: pair[0])
        return (slot, shared) if shared else (None, 0)

    def leave(self, slot: Slot) -> None:
        """Its sequence has ended."""
        slot.promised = 0
        slot.last_use = next(self._clock)
