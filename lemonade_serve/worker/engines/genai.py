"""Runs any checkpoint that onnxruntime-genai can, on its `Generator`: sequences take turns.

A `Generator` touches its whole KV cache when it is made, so its `max_length` is what the sequence
needs, rounded up; those of ended sequences are kept, a bounded number, for the prompts that begin
the same. The API used here is that of 0.18, pinned exactly (docs/adr/0004-engine-apis.md).
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from lemonade_serve.protocol.messages import Adapter, Load, ResolvedParams
from lemonade_serve.worker.engines.adapters import Adapters
from lemonade_serve.worker.engines.base import (
    Admitted,
    Broken,
    Group,
    Id,
    Sampled,
    Scored,
    Sequence,
    Step,
    chunk_of,
    common_prefix,
)
from lemonade_serve.worker.engines.choice import read_config
from lemonade_serve.worker.sampler import Drawing, Logits, Sampler

_CAPACITY_STEP = 256
_GROWTH = 1.5
"""KV caches are made larger than asked for, by this factor and to a multiple of so many tokens,
where there is room: the next turn of the same chat is longer, and should fit."""


@dataclass(kw_only=True)
class _Cache:
    """A Generator, and the tokens whose keys and values it holds. Its adapter, or that it has none,
    is for good: what it knows is of no use with another one."""

    generator: og.Generator
    capacity: int
    adapter: Adapter | None
    tokens: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class _Running:
    sequence: Sequence
    prompt: list[int]
    needed: int
    scored: int | None
    adapter: Adapter | None
    cache: _Cache | None = None
    """None until it is its turn."""
    pending: list[int] = field(default_factory=list)
    """Tokens that the model has not read yet: the rest of the prompt, or the last one sampled."""

    @property
    def held(self) -> int:
        """What it takes of the KV cache, in tokens."""
        return self.cache.capacity if self.cache else self.needed


class GenaiEngine:
    """Serves the checkpoint that `load` says, of `context_length` tokens. Its `execution_provider`
    is onnxruntime-genai's name of one, or `cpu`.

    At most `sequence_slots` sequences run at once, in turn. A prompt is read
    `prefill_chunk_tokens` at a time, between other sequences' tokens, and for each sequence of a
    group again. An adapter is loaded when the first sequence that is computed with it begins.
    Raises what onnxruntime-genai does when it cannot load the checkpoint.
    """

    name = "onnxruntime-genai"
    takes_adapters = True

    def __init__(self, load: Load, *, context_length: int) -> None:
        self._context_length = context_length
        self.sequence_slots = load.sequence_slots
        self.kv_cache_tokens = load.kv_cache_tokens
        self._chunk = load.prefill_chunk_tokens
        self._running: deque[_Running] = deque()
        self._kept: list[_Cache] = []  # least recently used first
        self._model = _model(load)
        self._adapters = Adapters(self._model, load.max_adapter_bytes, self._try)
        self._sampler = self._warm_up()
        token_bytes = read_config(Path(load.path)).decoder.token_bytes
        self.kv_cache_bytes = load.kv_cache_tokens * token_bytes

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def kv_tokens(self) -> int:
        return sum(running.held for running in self._running)

    def fits(self, group: Group) -> bool:
        count = len(group.sequences)
        free = self.kv_cache_tokens - self.kv_tokens
        adapters = self._used() | ({group.adapter} if group.adapter else set())
        if not self._adapters.fit(adapters):
            return False
        return len(self._running) + count <= self.sequence_slots and count * group.tokens <= free

    def start(self, group: Group) -> None:
        for sequence in group.sequences:
            running = _Running(
                sequence=sequence,
                prompt=list(group.prompt),
                needed=group.tokens,
                scored=group.scored,
                adapter=group.adapter,
            )
            self._running.append(running)

    def release(self, id: Id) -> None:
        for running in [r for r in self._running if r.sequence.id == id]:
            self._running.remove(running)
            if running.cache and running.scored is None:  # others are to read in chunks: see Slot
                self._kept.append(running.cache)
                self._shrink(self.kv_cache_tokens - self.kv_tokens)

    def step(self) -> Step:
        """Give whoever's turn it is a chunk or a token. One sequence's failure is not the
        others'."""
        running = self._running[0]
        self._running.rotate(-1)
        try:
            return self._advance(running)
        except Exception as error:  # native code raises anything, std::bad_alloc included
            self._running.remove(running)
            return Step([Broken.by(error, running.sequence.id)])

    def _advance(self, running: _Running) -> Step:
        if running.cache is None:
            return self._admit(running)
        cache = running.cache
        size = 1 if running.scored is not None else chunk_of(len(running.pending), self._chunk)
        chunk, running.pending = running.pending[:size], running.pending[size:]
        cache.generator.append_tokens(chunk)
        cache.tokens += chunk
        if running.pending and running.scored is None:
            return Step([])
        logits = _last(cache.generator)
        if running.pending and running.scored is not None:
            return self._score(running, logits, running.scored)
        (draw,) = self._sampler.sample(logits, [running.sequence.drawing])
        if isinstance(draw, Exception):
            raise draw
        running.pending = [draw.token]
        return Step([Sampled(running.sequence.id, draw)], batch=1)

    def _score(self, running: _Running, logits: Logits, likely: int) -> Step:
        """The prompt's next token; the first sequence of a group, which is never behind the others,
        speaks for all."""
        if running.sequence.id.nth:
            return Step([])
        draw = self._sampler.score(logits, running.pending[0], likely)
        if isinstance(draw, Exception):
            raise draw
        return Step([Scored(running.sequence.id, draw)])

    def _admit(self, running: _Running) -> Step:
        """Find it its adapter and a cache; the next step of its will read."""
        if running.adapter:
            self._load(running.adapter)
        running.cache = self._take(running) or self._make(running)
        known = len(running.cache.tokens)
        running.pending = running.prompt[known:]
        if running.sequence.id.nth:  # the first one of its group speaks for all
            return Step([])
        return Step([Admitted(running.sequence.id, known)])

    def _used(self) -> set[Adapter]:
        return {running.adapter for running in self._running if running.adapter}

    def _load(self, adapter: Adapter) -> None:
        for going in self._adapters.surplus(adapter, self._used()):
            self._kept = [cache for cache in self._kept if cache.adapter != going]
            self._adapters.unload(going)
        self._adapters.load(adapter)

    def _take(self, running: _Running) -> _Cache | None:
        """A kept cache that is large enough, rewound to the prefix it shares with the prompt.

        One of which most is of use goes first. Others would lose what they are kept for: the least
        recently used of them is taken, for its memory, only when there is no room for another.
        """
        prompt, free = running.prompt, self._free(running)
        fitting = [
            cache
            for cache in self._kept
            if cache.adapter == running.adapter and running.needed <= cache.capacity <= free
        ]
        shared = [common_prefix(cache.tokens, prompt) for cache in fitting]
        use = [n if 2 * n >= len(c.tokens) else 0 for n, c in zip(shared, fitting, strict=True)]
        best = max(range(len(use)), key=use.__getitem__, default=None)
        kept = sum(cache.capacity for cache in self._kept)
        if best is None or (use[best] == 0 and kept + running.needed <= free):
            return None
        cache = fitting[best]
        # At least two of the prompt's tokens are read again: see chunk_of.
        # And all of those that are scored.
        reused = 0 if running.scored is not None else max(0, min(shared[best], len(prompt) - 2))
        self._kept.remove(cache)
        cache.generator.rewind_to(reused)
        del cache.tokens[reused:]
        self._shrink(free - cache.capacity)
        return cache

    def _make(self, running: _Running) -> _Cache:
        free = self._free(running)
        roomy = int(-(-running.needed * _GROWTH // _CAPACITY_STEP) * _CAPACITY_STEP)
        kept = sum(cache.capacity for cache in self._kept)
        capacity = max(running.needed, min(roomy, self._context_length, free - kept))
        self._shrink(free - capacity)
        generator = self._generator(capacity, running.adapter)
        return _Cache(generator=generator, capacity=capacity, adapter=running.adapter)

    def _free(self, running: _Running) -> int:
        """Tokens of the KV cache that nobody else who runs has."""
        return self.kv_cache_tokens - self.kv_tokens + running.held

    def _shrink(self, tokens: int) -> None:
        """Keep the caches of ended sequences within so many tokens; the oldest go."""
        while self._kept and sum(cache.capacity for cache in self._kept) > tokens:
            del self._kept[0]

    def _generator(self, capacity: int, adapter: Adapter | None) -> og.Generator:
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=capacity, batch_size=1)
        generator = og.Generator(self._model, params)
        if adapter:
            self._adapters.activate(adapter, generator)
        return generator

    def _try(self, adapter: Adapter | None = None) -> Logits:
        """A step of the model."""
        generator = self._generator(2, adapter)
        generator.append_tokens([0])
        return _last(generator)

    def _warm_up(self) -> Sampler:
        """A step of the model and a draw, before anyone waits for them."""
        logits = self._try()
        sampler = Sampler(logits.shape[-1])
        sampler.sample(logits, [Drawing(ResolvedParams(), [0], frozenset())])
        return sampler


def _model(load: Load) -> og.Model:
    config = og.Config(load.path)
    config.clear_providers()
    if load.execution_provider != "cpu":
        _append_provider(config, load)
    options = {"intra_op_num_threads": load.threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return og.Model(config)


def _append_provider(config: og.Config, load: Load) -> None:
    name = load.execution_provider
    if load.library:
        og.register_execution_provider_library(name, load.library)
    config.append_provider(name)
    if load.library:  # or it could choose another device than the one that was asked for
        config.set_decoder_provider_options_hardware_device_type(name, load.hardware)
    for option, value in load.provider_options:
        config.set_provider_option(name, option, value)


def _last(generator: og.Generator) -> Logits:
    """The logits of the last position, a row."""
    logits = generator.get_logits()
    rows: Logits = logits.reshape(-1, logits.shape[-1])[-1:].astype(np.float32)
    return rows
