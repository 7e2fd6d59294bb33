"""A sequence that is sampled alone, and guidance that allows a few tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lemonade_serve.protocol.messages import ResolvedParams
from lemonade_serve.worker.sampler import Draw, Drawing, Logits, Mask, Sampler

EOS = frozenset({0})


def logits_of(*values: float) -> Logits:
    return np.array(values, dtype=np.float32)


class Alone:
    """A batch of one. Raises what its row gives."""

    def __init__(self, sampler: Sampler, drawing: Drawing) -> None:
        self._sampler = sampler
        self._drawing = drawing

    def draw(self, logits: Logits) -> Draw:
        (draw,) = self._sampler.sample(logits[None].copy(), [self._drawing])
        if isinstance(draw, Exception):
            raise draw
        return draw

    def token(self, *logits: float) -> int:
        return self.draw(logits_of(*logits)).token

    def drawn(self, logits: Logits, times: int) -> list[int]:
        return [self.draw(logits).token for _ in range(times)]


def alone(
    vocabulary: int, *prompt: int, index: int = 0, mask: Mask | None = None, **params: object
) -> Alone:
    resolved = ResolvedParams(**params)  # type: ignore[arg-type]
    return Alone(Sampler(vocabulary), Drawing(resolved, prompt, EOS, index=index, mask=mask))


class Allowing:
    """Guidance that always allows the same tokens."""

    def __init__(self, tokens: Iterable[int], vocabulary: int) -> None:
        self.words = np.zeros(-(-vocabulary // 32), dtype=np.uint32)
        for token in tokens:
            self.words[token // 32] |= np.uint32(1 << token % 32)
        self.accepted: list[int] = []

    def allowed(self) -> NDArray[np.uint32] | None:
        return self.words

    def accept(self, token: int) -> None:
        self.accepted.append(token)
