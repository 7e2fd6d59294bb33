"""Decodes many sequences in one step, on plain ONNX Runtime.

Those that decode have the first rows of the KV cache, so that a step is one run over a contiguous
batch. A newcomer is read in chunks into a row behind them, between the steps, and moves up when it
is done. Every row attends to its own length only, and gives the same bits in every batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from lemonade_serve.protocol.messages import Load, ResolvedParams
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
    chunk_of,
    common_prefix,
)
from lemonade_serve.worker.engines.choice import Decoder
from lemonade_serve.worker.engines.runner import Runner
from lemonade_serve.worker.engines.slots import Slot, Slots
from lemonade_serve.worker.sampler import Drawing, Logits, Sampler

_LEAST_CHUNK = 8
"""A step that has fewer tokens of its bound left begins no further prompt."""


class _Running:
    """A sequence in its slot, and the last token sampled, which the model has not read yet."""

    def __init__(self, sequence: Sequence, slot: Slot) -> None:
        self.sequence = sequence
        self.slot = slot
        self.pending = 0
        self.ahead: deque[int] = deque()
        """What of the prompt comes after that: read a token at a time, so as to be scored."""
        self.likely = 0
        """So many likely tokens come with each of these."""

    def read_next(self) -> int:
        """Go on to the next token that is ahead."""
        self.pending = self.ahead.popleft()
        return self.pending


class _Reading:
    """A prompt that is being read, in the slot of the first of those that wait for it."""

    def __init__(self, group: Group, running: list[_Running], due: int) -> None:
        self.prompt = list(group.prompt)
        self.scored = group.scored
        self.running = running
        self.due = due
        """The shorter and the earlier is due first, in tokens that the engine reads."""
        self.begun = False

    @property
    def slot(self) -> Slot:
        return self.running[0].slot

    @property
    def known(self) -> int:
        return len(self.slot.tokens)


class BatchedEngine:
    """Serves the decoder of a checkpoint whose context is `context_length` tokens.

    A step reads `prefill_chunk_tokens` of prompts, or half as many beside sequences that decode and
    are no fewer than the prompts, and gives each of these a token. What an ended sequence left in
    its slot is used for the prompts that begin the same, by whichever client; prompts that begin
    the same at the same time are read once. Raises what ONNX Runtime does when it cannot load the
    graph, and ModelLoadError.
    """

    name = "batched"

    def __init__(self, load: Load, decoder: Decoder, *, context_length: int) -> None:
        self.sequence_slots = load.sequence_slots
        self.kv_cache_tokens = load.kv_cache_tokens
        self._chunk = load.prefill_chunk_tokens
        self._reading: list[_Reading] = []
        self._decoding: list[_Running] = []
        """By row."""
        self._read_tokens = 0
        self._sampler = Sampler(decoder.vocabulary)
        self._scores_chunks = not decoder.last_position_only
        self._runner = Runner(
            decoder,
            threads=load.threads,
            rows=load.sequence_slots,
            capacity=min(context_length, load.kv_cache_tokens),
        )
        self._slots = Slots(load.sequence_slots, load.kv_cache_tokens, first_row=self._runner.first)
        self._warm_up()
        self.kv_cache_bytes = load.kv_cache_tokens * self._runner.cache.token_bytes

    @property
    def idle(self) -> bool:
        return not self._reading and not self._decoding

    @property
    def kv_tokens(self) -> int:
        return self._slots.promised

    def fits(self, group: Group) -> bool:
        return self._slots.fit(len(group.sequences), group.tokens)

    def start(self, group: Group) -> None:
        slots, given_back = self._slots.take(group.prompt, len(group.sequences), group.tokens)
        for slot in given_back:
            self._runner.cache.give_back(slot.row)
        running = [_Running(s, slot) for s, slot in zip(group.sequences, slots, strict=True)]
        due = self._read_tokens + len(group.prompt)
        self._reading.append(_Reading(group, running, due))

    def release(self, id: Id) -> None:
        for running in [r for r in self._decoding if r.sequence.id == id]:
            place, last = self._decoding.index(running), self._decoding[-1]
            self._move(last.slot, running.slot.row)
            self._decoding[place] = last
            self._decoding.pop()
            self._slots.leave(running.slot)
        for reading in self._reading:
            for running in [r for r in reading.running if r.sequence.id == id]:
                if running is reading.running[0]:  # the next one goes on, from what is known
                    reading.begun = False
                reading.running.remove(running)
                self._slots.leave(running.slot)
        self._reading = [reading for reading in self._reading if reading.running]

    def step(self) -> Step:
        few_wait = 0 < len(self._reading) <= len(self._decoding)
        bound = self._read_tokens + (self._chunk // 2 if few_wait else self._chunk)
        events = self._decode() if self._decoding else []
        batch = sum(isinstance(event, Sampled) for event in events)
        while self._reading and bound - self._read_tokens >= _LEAST_CHUNK:
            events += self._read(bound - self._read_tokens)
        return Step(events, batch)

    def _decode(self) -> list[Event]:
        """A token for everyone."""
        running = list(self._decoding)

        def run() -> list[Event]:
            tokens = np.array([[r.pending] for r in running])
            lengths = np.array([len(r.slot.tokens) for r in running])
            logits = self._runner.run(self._runner.first, tokens, lengths)
            for one in running:
                one.slot.extend([one.pending])
            return self._score_or_sample(running, logits)

        return self._guarded(running, run)

    def _read(self, bound: int) -> list[Event]:
        """A chunk of the prompt whose turn it is; of one that is read, the first tokens."""
        reading = self._next_reading()
        return self._guarded(list(reading.running), lambda: self._advance(reading, bound))

    def _advance(self, reading: _Reading, bound: int) -> list[Event]:
        events: list[Event] = []
        if not reading.begun:
            events.append(self._begin(reading))
        # A token alone could be rounded differently (see Runner), and graphs may give the logits of
        # a chunk's last position only: such prompts are read by the steps.
        by_steps = reading.scored is not None and not self._scores_chunks
        if len(reading.prompt) == 1 or by_steps:
            self._join(reading)
            for running in reading.running:
                running.ahead.extend(reading.prompt)
                running.likely = reading.scored or 0
                running.slot.lends = not by_steps
                running.read_next()
            return events
        slot, known = reading.slot, reading.known
        size = chunk_of(len(reading.prompt) - known, bound)
        chunk = reading.prompt[known : known + size]
        if reading.scored is None:
            logits = self._runner.run(slot.row, np.array([chunk]), np.array([known]))
        else:
            every = self._runner.run_all(slot.row, np.array([chunk]), np.array([known]))
            events += self._score(reading, every, reading.scored)
            logits = every[-1:]
        slot.extend(chunk)
        self._read_tokens += size
        if reading.known < len(reading.prompt):
            return events
        for other in reading.running[1:]:
            self._copy(slot, other.slot, len(reading.prompt))
        self._join(reading)
        logits = np.repeat(logits, len(reading.running), axis=0)
        return events + self._sample(reading.running, logits)

    def _score(self, reading: _Reading, logits: Logits, likely: int) -> list[Event]:
        """The tokens that come next in a prompt, by the logits of those from the first unknown."""
        begin, events = reading.known + 1, list[Event]()
        for row, token in enumerate(reading.prompt[begin : begin + len(logits)]):
            draw = self._sampler.score(logits[row : row + 1], token, likely)
            if isinstance(draw, Exception):
                raise draw
            events.append(Scored(reading.running[0].sequence.id, draw))
        return events

    def _join(self, reading: _Reading) -> None:
        """Its sequences decode from the next step on."""
        for running in reading.running:
            self._move(running.slot, self._runner.first + len(self._decoding))
            self._decoding.append(running)
        self._reading.remove(reading)

    def _begin(self, reading: _Reading) -> Event:
        """Take over what is known of the prompt, be it here or in another slot."""
        slot, prompt = reading.slot, reading.prompt
        source, shared = self._slots.best_source(prompt)
        # Two of the prompt's tokens are read again at least: see chunk_of.
        shared = 0 if reading.scored is not None else max(0, min(shared, len(prompt) - 2))
        del slot.tokens[min(shared, common_prefix(slot.tokens, prompt)) :]
        if source and source is not slot:
            self._copy(source, slot, shared)
        reading.begun = True
        return Admitted(reading.running[0].sequence.id, shared)

    def _next_reading(self) -> _Reading:
        """The one that is due first, and need not wait for another that begins the same."""
        by_due = sorted(self._reading, key=lambda reading: reading.due)
        return next(r for r in by_due if r.begun or not self._worth_waiting(r))

    def _worth_waiting(self, newcomer: _Reading) -> bool:
        """Whether a prompt that is being read will give it what it would have to compute."""
        if newcomer.scored is not None:
            return False
        _, shared = self._slots.best_source(newcomer.prompt)
        return any(
            common_prefix(other.prompt, newcomer.prompt) - shared >= self._chunk
            for other in self._reading
            if other.begun
        )

    def _score_or_sample(self, running: list[_Running], logits: Logits) -> list[Event]:
        """Whoever is still in its prompt goes on in it, and the others draw."""
        reading = [row for row, one in enumerate(running) if one.ahead]
        if not reading:
            return self._sample(running, logits)
        events: list[Event] = []
        for row in reading:
            one = running[row]
            token = one.read_next()
            if one.sequence.id.nth:  # the first one of its group speaks for all
                continue
            draw = self._sampler.score(logits[row : row + 1], token, one.likely)
            if isinstance(draw, Exception):
                events.append(Broken.by(draw, one.sequence.id))
                self.release(one.sequence.id)
            else:
                events.append(Scored(one.sequence.id, draw))
        drawing = [row for row in range(len(running)) if row not in reading]
        if not drawing:
            return events
        return events + self._sample([running[row] for row in drawing], logits[drawing])

    def _sample(self, running: list[_Running], logits: Logits) -> list[Event]:
        drawn = self._sampler.sample(logits, [r.sequence.drawing for r in running])
        events: list[Event] = []
        for one, draw in zip(running, drawn, strict=True):
            if isinstance(draw, Exception):
                events.append(Broken.by(draw, one.sequence.id))
                self.release(one.sequence.id)
            else:
                one.pending = draw.token
                events.append(Sampled(one.sequence.id, draw))
        return events

    def _guarded(self, running: list[_Running], act: Callable[[], list[Event]]) -> list[Event]:
        """What fails here breaks those that took part, and nobody else."""
        try:
            return act()
        except Exception as error:  # native code raises anything, std::bad_alloc included
            for one in running:
                self.release(one.sequence.id)
                self._runner.cache.give_back(one.slot.row)
                one.slot.forget()
            return [Broken.by(error, one.sequence.id) for one in running]

    def _copy(self, source: Slot, target: Slot, end: int) -> None:
        """Let `target`, which holds a beginning of it already, hold the first `end` tokens."""
        begin = len(target.tokens)
        self._runner.cache.copy(source.row, target.row, begin, end)
        target.extend(source.tokens[begin:end])

    def _move(self, slot: Slot, row: int) -> None:
        """Give a slot the row, and whoever has that the slot's own."""
        if slot.row != row:
            other, cache = self._slots.at(row), self._runner.cache
            tokens = max(slot.written, other.written)
            cache.exchange(slot.row, row, tokens)
            if not cache.moves:
                slot.written = other.written = tokens
            self._slots.exchange(slot.row, row)

    def _warm_up(self) -> None:
        """A chunk, a step and a draw, before anyone waits for them."""
        row = self._runner.first
        self._runner.run(row, np.zeros((1, 2), np.int64), np.array([0]))
        logits = self._runner.run(row, np.zeros((1, 1), np.int64), np.array([2]))
        self._sampler.sample(logits, [Drawing(ResolvedParams(), [0], frozenset())])
        self._runner.cache.give_back(row)
