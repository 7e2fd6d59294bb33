"""Runs any checkpoint that onnxruntime-genai can, on its `Generator`: sequences take turns.

A `Generator` touches its whole KV cache when it is made, so its `max_length` is what the sequence
needs, rounded up; those of ended sequences are kept, a bounded number, for the prompts that begin
the same. The API used here is that of 0.18, pinned exactly (docs/adr/0004-engine-apis.md).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import onnxruntime_genai as og

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Load
from lemonade_serve.worker.engines.base import Admitted, Broken, Sampled, Sequence, Step

_CAPACITY_STEP = 256
_GROWTH = 1.5
"""KV caches are made larger than asked for, by this factor and to a multiple of so many tokens: the
next turn of the same chat is longer, and should fit."""

_NO_MEMORY = ("could not allocate", "failed to allocate", "bad_alloc", "out of memory")


@dataclass(kw_only=True)
class _Cache:
    """A Generator, and the tokens whose keys and values it holds."""

    generator: og.Generator
    capacity: int
    tokens: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class _Running:
    sequence: Sequence
    cache: _Cache
    pending: list[int]
    """Tokens that the model has not read yet: the rest of the prompt, or the last one sampled."""

    def next_chunk(self, bound: int) -> list[int]:
        """Never a prompt's last token alone: kernels for one row round differently than those for
        many, and a prompt should give the same text however it was cut."""
        size = bound - 1 if len(self.pending) == bound + 1 else bound
        chunk, self.pending = self.pending[:size], self.pending[size:]
        return chunk


class GenaiEngine:
    """Serves the checkpoint that `load` says, of `context_length` tokens. Its `execution_provider`
    is onnxruntime-genai's name of one, or `cpu`.

    At most `sequence_slots` sequences run at once, in turn; `idle_sequences` caches of ended ones
    are kept. A prompt is read `prefill_chunk_tokens` at a time, between other sequences' tokens.
    Raises ModelLoadError when onnxruntime-genai cannot load the checkpoint, and NoCapacity when
    there is no memory for it.
    """

    name = "onnxruntime-genai"

    def __init__(self, load: Load, *, context_length: int) -> None:
        self._context_length = context_length
        self._slots = load.sequence_slots
        self._idle_bound = load.idle_sequences
        self._chunk = load.prefill_chunk_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: deque[_Running] = deque()
        self._kept: list[_Cache] = []  # least recently used first
        try:
            self._model = _model(load)
            self._vocabulary = self._warm_up()
        except (RuntimeError, MemoryError) as error:
            if _is_no_memory(error):
                raise errors.NoCapacity(f"there is no memory to load it: {error}") from error
            raise errors.ModelLoadError(str(error)) from error

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def submit(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def release(self, id: int) -> None:
        self._waiting = deque(s for s in self._waiting if s.id != id)
        for running in [r for r in self._running if r.sequence.id == id]:
            self._running.remove(running)
            self._keep(running.cache)

    def step(self) -> list[Step]:
        """Admit the next newcomer, or else give whoever's turn it is a chunk or a token."""
        if self._waiting and len(self._running) < self._slots:
            sequence = self._waiting.popleft()
            return self._guarded(sequence, lambda: self._admit(sequence))
        running = self._running[0]
        self._running.rotate(-1)
        return self._guarded(running.sequence, lambda: self._advance(running))

    def _guarded(self, sequence: Sequence, act: Callable[[], list[Step]]) -> list[Step]:
        """One sequence's failure is not the others'."""
        try:
            return act()
        except Exception as error:  # native code raises anything, std::bad_alloc included
            self._running = deque(r for r in self._running if r.sequence is not sequence)
            return [Broken(sequence.id, str(error) or type(error).__name__, _code(error))]

    def _admit(self, sequence: Sequence) -> list[Step]:
        needed = len(sequence.prompt) + sequence.max_tokens
        cache = self._take(sequence.prompt, needed) or self._make(needed)
        pending = sequence.prompt[len(cache.tokens) :]
        self._running.appendleft(_Running(sequence=sequence, cache=cache, pending=pending))
        return [Admitted(sequence.id, len(cache.tokens))]

    def _advance(self, running: _Running) -> list[Step]:
        chunk = running.next_chunk(self._chunk)
        running.cache.generator.append_tokens(chunk)
        running.cache.tokens += chunk
        if running.pending:
            return []
        logits = running.cache.generator.get_logits().reshape(-1, self._vocabulary)[-1]
        token = running.sequence.sampler.sample(logits)
        running.pending = [token]
        return [Sampled(running.sequence.id, token)]

    def _take(self, prompt: list[int], needed: int) -> _Cache | None:
        """A kept cache that is large enough, rewound to the prefix it shares with the prompt.

        One of which most is of use goes first. Others would lose what they are kept for: the least
        recently used of them is taken, for its memory, only when no more may be kept.
        """
        fitting = [cache for cache in self._kept if cache.capacity >= needed]
        shared = [_common_prefix(cache.tokens, prompt) for cache in fitting]
        use = [n if 2 * n >= len(c.tokens) else 0 for n, c in zip(shared, fitting, strict=True)]
        best = max(range(len(use)), key=use.__getitem__, default=None)
        if best is None or (use[best] == 0 and len(self._kept) < self._idle_bound):
            return None
        cache = fitting[best]
        # At least two of the prompt's tokens are read again: see next_chunk.
        reused = max(0, min(shared[best], len(prompt) - 2))
        self._kept.remove(cache)
        cache.generator.rewind_to(reused)
        del cache.tokens[reused:]
        return cache

    def _make(self, needed: int) -> _Cache:
        roomy = -(-needed * _GROWTH // _CAPACITY_STEP) * _CAPACITY_STEP
        capacity = min(int(roomy), self._context_length)
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=capacity, batch_size=1)
        return _Cache(generator=og.Generator(self._model, params), capacity=capacity)

    def _warm_up(self) -> int:
        """One step of the model, before anyone waits for it; returns the vocabulary's size."""
        generator = self._make(1).generator
        generator.append_tokens([0])
        return int(generator.get_logits().shape[-1])

    def _keep(self, cache: _Cache) -> None:
        self._kept.append(cache)
        del self._kept[: max(0, len(self._kept) - self._idle_bound)]


def _model(load: Load) -> og.Model:
    config = og.Config(load.path)
    config.clear_providers()
    if load.execution_provider != "cpu":
        config.append_provider(load.execution_provider)
    options = {"intra_op_num_threads": load.threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return og.Model(config)


def _is_no_memory(error: Exception) -> bool:
    """Native code says it in words only."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY)


def _code(error: Exception) -> str:
    return errors.NoCapacity.code if _is_no_memory(error) else errors.GenerationFailed.code


def _common_prefix(a: list[int], b: list[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
