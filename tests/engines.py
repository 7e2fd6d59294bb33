"""A scripted engine, as real as its contract (`tests/contract/test_engine.py`) makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lemonade_serve.worker.engines.base import (
    Admitted,
    Broken,
    Event,
    Group,
    Id,
    Sampled,
    Scored,
    Sequence,
    Step,
    failure_code,
)
from lemonade_serve.worker.sampler import Logits, Sampler


class FakeEngine:
    """An `Engine` that batches: each step admits the newcomers, or gives everyone one token.

    `script` says what follows the prompt and the tokens so far; what it raises breaks the sequence.
    """

    name = "fake"
    kv_cache_bytes = 1 << 20
    takes_adapters = False

    def __init__(
        self,
        script: Callable[[list[int]], int],
        *,
        vocabulary: int = 512,
        sequence_slots: int = 2,
        kv_cache_tokens: int = 4096,
        cached_tokens: int = 0,
    ) -> None:
        self._script = script
        self._vocabulary = vocabulary
        self._sampler = Sampler(vocabulary)
        self.sequence_slots = sequence_slots
        self.kv_cache_tokens = kv_cache_tokens
        self._cached_tokens = cached_tokens
        self._newcomers: list[Group] = []
        self._running: dict[Id, tuple[Sequence, list[int], int]] = {}
        self.steps = 0
        self.released: list[Id] = []

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def kv_tokens(self) -> int:
        return sum(held for _, _, held in self._running.values())

    def fits(self, group: Group) -> bool:
        count = len(group.sequences)
        needed = self.kv_tokens + count * group.tokens
        return len(self._running) + count <= self.sequence_slots and needed <= self.kv_cache_tokens

    def start(self, group: Group) -> None:
        assert self.fits(group)
        self._newcomers.append(group)
        for sequence in group.sequences:
            self._running[sequence.id] = (sequence, list(group.prompt), group.tokens)

    def release(self, id: Id) -> None:
        self.released.append(id)
        self._running.pop(id, None)
        self._newcomers = [group for group in self._newcomers if group.sequences[0].id != id]

    def step(self) -> Step:
        assert self._running
        self.steps += 1
        if self._newcomers:
            admitted, self._newcomers = self._newcomers, []
            return Step([event for group in admitted for event in self._admit(group)])
        running = list(self._running.values())
        return Step(
            [self._advance(sequence, tokens) for sequence, tokens, _ in running], len(running)
        )

    def _admit(self, group: Group) -> Iterator[Event]:
        id = group.sequences[0].id
        if group.scored is None:
            yield Admitted(id, self._cached_tokens)
            return
        yield Admitted(id, 0)
        for n in range(1, len(group.prompt)):
            logits = self._logits(list(group.prompt[:n]))
            draw = self._sampler.score(logits, group.prompt[n], group.scored)
            assert not isinstance(draw, Exception)
            yield Scored(id, draw)

    def _logits(self, tokens: list[int]) -> Logits:
        logits = np.zeros((1, self._vocabulary), dtype=np.float32)
        logits[0, self._script(tokens)] = 100.0
        return logits

    def _advance(self, sequence: Sequence, tokens: list[int]) -> Sampled | Broken:
        try:
            (draw,) = self._sampler.sample(self._logits(tokens), [sequence.drawing])
            if isinstance(draw, Exception):
                raise draw
        except Exception as error:
            del self._running[sequence.id]
            return Broken(sequence.id, str(error), failure_code(error))
        tokens.append(draw.token)
        return Sampled(sequence.id, draw)
