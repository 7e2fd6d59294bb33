"""The one sampler: from the logits of a position to the next token, whatever engine made them.

Order of the steps, as in Hugging Face's generation: repetition penalty, minimum length,
temperature, top-k, top-p, draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ResolvedParams

Logits = NDArray[np.float32]
"""Shape (vocabulary,)."""

_LOWEST, _HIGHEST = np.finfo(np.float32).min, np.finfo(np.float32).max


class Sampler:
    """Draws the tokens of one sequence.

    The same seed, parameters and logits give the same tokens. `eos_ids` are held at bay until
    `min_length` tokens are drawn.
    """

    def __init__(
        self, params: ResolvedParams, prompt_tokens: list[int], eos_ids: frozenset[int]
    ) -> None:
        self._params = params
        self._greedy = not params.do_sample or params.temperature == 0
        self._random = np.random.default_rng(
            None if params.seed is None else params.seed & 0xFFFF_FFFF_FFFF_FFFF
        )
        self._seen = set(prompt_tokens) if params.repetition_penalty != 1 else None
        self._eos_ids = list(eos_ids)
        self._drawn = 0

    def sample(self, logits: Logits) -> int:
        """The next token. May write into `logits`. Raises GenerationFailed for logits like NaN."""
        self._penalise(logits)
        if self._drawn < self._params.min_length:
            logits[self._eos_ids] = -np.inf
        token = int(logits.argmax())
        if not np.isfinite(logits[token]):
            raise errors.GenerationFailed("the model computed logits that are not numbers")
        if not self._greedy:
            token = self._draw(logits)
        self._drawn += 1
        if self._seen is not None:
            self._seen.add(token)
        return token

    def _penalise(self, logits: Logits) -> None:
        """Source: CTRL (Keskar et al., 2019), section 4.1, for prompt and generated tokens."""
        if self._seen is None:
            return
        seen = np.fromiter(self._seen, dtype=np.int64, count=len(self._seen))
        scores = logits[seen].astype(np.float64)
        penalty = self._params.repetition_penalty
        scores = np.where(scores < 0, scores * penalty, scores / penalty)
        logits[seen] = np.clip(scores, _LOWEST, _HIGHEST)

    def _draw(self, logits: Logits) -> int:
        candidates = self._most_likely(logits)
        scores = logits[candidates].astype(np.float64)
        with np.errstate(over="ignore"):
            odds = np.exp((scores - scores.max()) / self._params.temperature)
        if self._params.top_p < 1:
            order = np.argsort(-scores, kind="stable")
            candidates, odds = candidates[order], odds[order]
            mass = np.cumsum(odds)
            kept = int(np.searchsorted(mass, self._params.top_p * mass[-1])) + 1
            candidates, odds = candidates[:kept], odds[:kept]
        mass = np.cumsum(odds)
        drawn = int(np.searchsorted(mass, self._random.random() * mass[-1], side="right"))
        return int(candidates[min(drawn, len(candidates) - 1)])

    def _most_likely(self, logits: Logits) -> NDArray[np.int64]:
        """The ids of the top_k most likely tokens, ascending; all of them when top_k is off."""
        top_k = self._params.top_k
        if top_k == 0 or top_k >= logits.size:
            return np.arange(logits.size)
        return np.sort(np.argpartition(logits, -top_k)[-top_k:])
