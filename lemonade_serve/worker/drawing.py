"""One sequence's part in the sampling: what changes its logits before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lemonade_serve.protocol.messages import ResolvedParams

_Row = NDArray[np.float32]
_Ids = NDArray[np.int64]

_LOWEST, _HIGHEST = np.finfo(np.float32).min, np.finfo(np.float32).max
_ROOM = 64
"""For so many tokens more than the prompt's is there memory at first; then it doubles."""


class Mask(Protocol):
    """What guidance lets a sequence say next. What either raises ends that sequence alone."""

    def allowed(self) -> NDArray[np.uint32] | None:
        """One bit a token, 32 a word, the lowest bit first (llguidance's layout); a token beyond
        the last word is not allowed. None: every token is."""

    def accept(self, token: int) -> None:
        """The token was drawn."""


class Drawing:
    """One sequence's part in it: parameters, random numbers, what it has said.

    `index` says which of the request's sequences it is; they differ by their seeds. `eos_ids` are
    held at bay until `min_length` tokens are drawn, or the mask allows nothing else.
    """

    def __init__(
        self,
        params: ResolvedParams,
        prompt_tokens: Sequence[int],
        eos_ids: frozenset[int],
        *,
        index: int = 0,
        mask: Mask | None = None,
    ) -> None:
        self.params = params
        self.greedy = not params.do_sample or params.temperature == 0
        self._random = np.random.default_rng(
            None if params.seed is None else params.seed + index & 0xFFFF_FFFF_FFFF_FFFF
        )
        self._eos_ids = sorted(eos_ids)
        self.mask = mask
        self._drawn = 0
        self._bias_ids = np.array([token for token, _ in params.logit_bias], dtype=np.int64)
        self._biases = np.array([bias for _, bias in params.logit_bias], dtype=np.float64)
        self._penalises = params.repetition_penalty != 1
        self._discourages = bool(params.presence_penalty or params.frequency_penalty)
        self._history = (
            _History(prompt_tokens if self._penalises else ())
            if self._penalises or self._discourages
            else None
        )

    @property
    def changes(self) -> bool:
        """Whether `adjust` does anything."""
        return bool(
            self._biases.size or self._history or self.mask or self._drawn < self.params.min_length
        )

    @property
    def plain(self) -> bool:
        """Whether it takes the most likely token, and says no more of it."""
        return self.greedy and self.params.logprobs is None and not self.changes

    def adjust(self, logits: _Row) -> None:
        """All steps up to the mask. Raises what guidance raises."""
        if self._biases.size:
            _put(logits, self._bias_ids, logits[self._bias_ids] + self._biases)
        if self._history is not None:
            self._penalise(logits, self._history)
        self._forbid(logits)

    def uniform(self) -> float:
        """At least 0, less than 1; one for each token that is not greedy."""
        return self._random.random()

    def accept(self, token: int) -> None:
        """The token was drawn. Raises what guidance raises."""
        self._drawn += 1
        if self._history is not None:
            self._history.add(token)
        if self.mask is not None:
            self.mask.accept(token)

    def _penalise(self, logits: _Row, history: _History) -> None:
        """Sources: CTRL (Keskar et al., 2019), section 4.1, for prompt and generated tokens, and
        OpenAI's mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence for generated
        ones (its API reference, “parameter details”)."""
        ids, counts = history.ids, history.counts
        scores = logits[ids].astype(np.float64)
        if self._penalises:
            penalty = self.params.repetition_penalty
            scores = np.where(scores < 0, scores * penalty, scores / penalty)
        if self._discourages:
            scores -= counts * self.params.frequency_penalty
            scores -= (counts > 0) * self.params.presence_penalty
        _put(logits, ids, scores)

    def _forbid(self, logits: _Row) -> None:
        early = self._drawn < self.params.min_length
        words = None if self.mask is None else self.mask.allowed()
        if words is None:
            if early:
                logits[self._eos_ids] = -np.inf
            return
        octets = words.astype("<u4", copy=False).view(np.uint8)
        allowed = np.unpackbits(octets, bitorder="little", count=logits.size)
        if early:
            without_end = allowed.copy()
            without_end[self._eos_ids] = 0
            allowed = without_end if without_end.any() else allowed
        logits[np.flatnonzero(allowed == 0)] = -np.inf


class _History:
    """The tokens that came, each once, and how often they were generated."""

    def __init__(self, prompt_tokens: Sequence[int]) -> None:
        self._places = {token: n for n, token in enumerate(dict.fromkeys(prompt_tokens))}
        self._ids = np.array([*self._places, *[0] * _ROOM], dtype=np.int64)
        self._counts = np.zeros(self._ids.size)

    @property
    def ids(self) -> _Ids:
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float64]:
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == self._ids.size:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1


def _put(logits: _Row, ids: _Ids, scores: NDArray[np.float64]) -> None:
    """As numbers that float32 has; what was forbidden stays so."""
    forbidden = np.isneginf(logits[ids])
    logits[ids] = np.where(forbidden, -np.inf, np.clip(scores, _LOWEST, _HIGHEST))
