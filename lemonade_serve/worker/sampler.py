"""The one sampler: from the logits of a position to the next token, whatever engine made them.

Order of the steps: logit bias, repetition penalty, presence and frequency penalties, no end before
`min_length`, guidance mask, temperature, top-k, top-p, min-p, draw. That is Hugging Face's order
(`_get_logits_processor` in transformers' generation/utils.py) with OpenAI's two penalties beside
the repetition penalty, as vLLM has them (vllm/v1/sample/sampler.py). A greedy sequence ends with
the mask, and takes the most likely token. Log probabilities are those of the logits as they came.

Of equally likely tokens the one with the lower id is the more likely. What a row draws depends on
nothing but the row, its parameters and its random numbers: every operation on many rows at once is
one that rounds each of them by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lemonade_serve import errors
from lemonade_serve.worker.drawing import Drawing, Mask

__all__ = ["Draw", "Drawing", "Logits", "Mask", "Sampler"]

Logits = NDArray[np.float32]
"""Shape (rows, vocabulary)."""

_Row = NDArray[np.float32]
_Ids = NDArray[np.int64]
_Odds = NDArray[np.float64]
"""Probabilities as multiples of the greatest one."""

_CANDIDATES = 64
"""So many of the most likely tokens are looked at first: more than most requests keep."""

_NO_NUMBERS = "the model computed logits that are not numbers"


class Draw(NamedTuple):
    """The next token, and natural logarithms of probabilities if they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with theirs, most likely first."""


class _Raw(NamedTuple):
    """What log probabilities are made of, before the logits are written to."""

    logits: _Row
    normaliser: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class _Turn:
    """A row of a batch on its way to a token."""

    row: int
    drawing: Drawing
    logits: _Row
    best: int
    likely: tuple[_Row, _Ids] | None = None
    """The most likely tokens of `logits` as they are: scores and ids, most likely first."""
    raw: _Raw | None = None
    uniform: float = 0.0
    total: float = 0.0
    """The odds of the whole vocabulary together, if top-p wants them."""
    failure: Exception | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.peak):
            self.failure = errors.GenerationFailed(_NO_NUMBERS)

    @property
    def peak(self) -> float:
        return float(self.logits[self.best])

    @property
    def top_k(self) -> int:
        """0 if it keeps everything."""
        top_k = self.drawing.params.top_k
        return top_k if top_k < self.logits.size else 0

    @property
    def few(self) -> bool:
        """Whether the candidates are all that may be drawn, or probably so."""
        return 0 < self.top_k <= _CANDIDATES or (self.top_k == 0 and self.drawing.params.top_p < 1)

    def adjust(self) -> None:
        if not self.drawing.changes:
            return
        try:
            self.drawing.adjust(self.logits)
        except Exception as failure:  # guidance is native code, too
            self.failure = failure
            return
        self.likely = None
        self.best = int(self.logits.argmax())
        if self.peak == -np.inf:
            self.failure = errors.GenerationFailed(
                "no token that the model may say next is allowed"
            )

    def end(self) -> Draw | Exception:
        if self.failure is not None:
            return self.failure
        try:
            self.drawing.accept(self.best)
        except Exception as failure:
            return failure
        if self.raw is None:
            return Draw(self.best)
        return Draw(
            self.best, float(self.raw.logits[self.best]) - self.raw.normaliser, self.raw.top
        )


class Sampler:
    """Draws the next token of many sequences at once, out of `vocabulary` tokens."""

    def __init__(self, vocabulary: int) -> None:
        self._candidates = min(_CANDIDATES, vocabulary)
        self._odds = np.empty(vocabulary)

    def sample(self, logits: Logits, drawings: Sequence[Drawing]) -> list[Draw | Exception]:
        """Row i belongs to `drawings[i]`. May write into `logits`.

        A row of which nothing can be drawn (the model computed NaN or infinities, guidance fails or
        allows nothing) gives its error, and its sequence is as it was, or it is of no more use; the
        others are not touched by it.
        """
        best = logits.argmax(axis=1).tolist()
        if all(drawing.plain for drawing in drawings):  # a step feels every microsecond
            peaks = logits[np.arange(len(best)), best]
            if np.isfinite(peaks).all():
                for drawing, token in zip(drawings, best, strict=True):
                    drawing.accept(token)
                return [Draw(token) for token in best]
        turns = [
            _Turn(row, drawings[row], row_logits, best[row])
            for row, row_logits in enumerate(logits)
        ]
        with np.errstate(over="ignore"):
            self._note_raw(logits, [t for t in turns if t.failure is None])
            for turn in [t for t in turns if t.failure is None]:
                turn.adjust()
            self._choose(logits, [t for t in turns if t.failure is None and not t.drawing.greedy])
        return [turn.end() for turn in turns]

    def score(self, logits: Logits, token: int, likely: int) -> Draw | Exception:
        """The token as if it had been drawn from `logits`, one row, with so many of the most likely
        ones; or the error of logits that are not numbers."""
        peak = float(logits.max())
        if not np.isfinite(peak):
            return errors.GenerationFailed(_NO_NUMBERS)
        odds = np.subtract(logits[0], peak, dtype=np.float64, out=self._odds)
        normaliser = peak + float(np.log(np.exp(odds, out=odds).sum()))
        top: tuple[tuple[int, float], ...] = ()
        if likely:
            scores, ids = self._top.run(None, {"logits": logits})
            logprobs = scores[0, :likely].astype(np.float64) - normaliser
            top = tuple(zip(ids[0, :likely].tolist(), logprobs.tolist(), strict=True))
        return Draw(token, float(logits[0, token]) - normaliser, top)

    def _note_raw(self, logits: Logits, turns: list[_Turn]) -> None:
        """Keeps what log probabilities need, where they are asked for."""
        asked = [(t, t.drawing.params.logprobs) for t in turns]
        self._find_likely(logits, [t for t, count in asked if count])
        for turn, count in asked:
            if count is None:
                continue
            normaliser = turn.peak + float(np.log(self._vocabulary_odds(turn, 1.0).sum()))
            top: tuple[tuple[int, float], ...] = ()
            if turn.likely is not None:
                scores, ids = (found[:count] for found in turn.likely)
                logprobs = scores.astype(np.float64) - normaliser
                top = tuple(zip(ids.tolist(), logprobs.tolist(), strict=True))
            raw = turn.logits.copy() if turn.drawing.changes else turn.logits
            turn.raw = _Raw(raw, normaliser, top)

    def _choose(self, logits: Logits, turns: list[_Turn]) -> None:
        for turn in turns:
            turn.uniform = turn.drawing.uniform()
        few = [t for t in turns if t.few]
        self._find_likely(logits, [t for t in few if t.likely is None])
        unsure = self._choose_likely(few) if few else []
        for turn in [*unsure, *(t for t in turns if not t.few)]:
            turn.best = self._choose_any(turn)

    def _choose_likely(self, turns: list[_Turn]) -> list[_Turn]:
        """Draws from the candidates. Returns the turns that may have to look beyond them: top-p
        and min-p keep them all, and top-k is off."""
        found = [t.likely for t in turns if t.likely is not None]
        scores = np.stack([scores for scores, _ in found]).astype(np.float64)
        ids = np.stack([ids for _, ids in found])
        rules = [
            (t.drawing.params.temperature, t.top_k, t.drawing.params.top_p, t.drawing.params.min_p)
            for t in turns
        ]
        temperature, top_k, top_p, min_p = np.array(rules).T[:, :, None]
        odds = np.exp((scores - scores[:, :1]) / temperature)
        odds[(top_k > 0) & (np.arange(self._candidates) >= top_k)] = 0
        mass = odds.cumsum(axis=1)
        totals = mass[:, -1:].copy()
        for n, turn in enumerate(turns):
            if turn.top_k == 0:
                odds_of_all = self._vocabulary_odds(turn, turn.drawing.params.temperature)
                totals[n] = turn.total = float(odds_of_all.sum())
        limit = top_p * totals
        uniforms = np.array([[t.uniform] for t in turns])
        columns = _drawn(odds, mass, limit, min_p, uniforms)
        unsure = ((top_k == 0) & (mass[:, -1:] < limit) & (odds[:, -1:] >= min_p))[:, 0]
        for turn, token in zip(turns, ids[np.arange(len(turns)), columns].tolist(), strict=True):
            turn.best = token
        return [turn for turn, doubt in zip(turns, unsure.tolist(), strict=True) if doubt]

    def _choose_any(self, turn: _Turn) -> int:
        """Draws from the whole vocabulary, or what top-k leaves of it."""
        params = turn.drawing.params
        if turn.top_k == 0 and params.top_p == 1:
            odds = self._vocabulary_odds(turn, params.temperature)
            if params.min_p > 0:
                odds[odds < params.min_p] = 0
            mass = odds.cumsum()
            return int(mass.searchsorted(turn.uniform * mass[-1], side="right"))
        ids = self._ranked(turn)
        scores = turn.logits[ids].astype(np.float64)
        odds = np.exp((scores - scores[0]) / params.temperature)[None]
        mass = odds.cumsum(axis=1)
        limit = np.array([[params.top_p * (turn.total or mass[0, -1])]])
        (column,) = _drawn(
            odds, mass, limit, np.array([[params.min_p]]), np.array([[turn.uniform]])
        )
        return int(ids[column])

    def _ranked(self, turn: _Turn) -> _Ids:
        """The ids that top-k keeps, or else all that top-p and min-p may, most likely first."""
        if turn.top_k:
            least = np.partition(turn.logits, -turn.top_k)[-turn.top_k]
            ids = np.flatnonzero(turn.logits >= least)
        else:
            # Tokens less likely than this are together less than half of what top-p cuts off.
            params = turn.drawing.params
            least = (1 - params.top_p) * turn.total / (2 * turn.logits.size)
            odds = self._vocabulary_odds(turn, params.temperature)
            ids = np.flatnonzero(odds >= max(least, params.min_p))
        return ids[np.argsort(-turn.logits[ids], kind="stable")][: turn.top_k or None]

    def _vocabulary_odds(self, turn: _Turn, temperature: float) -> _Odds:
        """Good until the next call."""
        odds = np.subtract(turn.logits, turn.peak, dtype=np.float64, out=self._odds)
        if temperature != 1:
            np.divide(odds, temperature, out=odds)
        return np.exp(odds, out=odds)

    def _find_likely(self, logits: Logits, turns: list[_Turn]) -> None:
        if not turns:
            return
        rows = logits if len(turns) == len(logits) else logits[[turn.row for turn in turns]]
        scores, ids = self._top.run(None, {"logits": rows})
        for n, turn in enumerate(turns):
            turn.likely = scores[n], ids[n]

    @functools.cached_property
    def _top(self) -> ort.InferenceSession:
        """ONNX's TopK: half the time of numpy's argpartition, and a tenth where numpy has no vector
        instructions for it; and, of equals, it takes those with the lower ids."""
        import onnx

        size = onnx.helper.make_tensor("size", onnx.TensorProto.INT64, [1], [self._candidates])
        shapes = {
            name: onnx.helper.make_tensor_value_info(name, kind, ["rows", columns])
            for name, kind, columns in (
                ("logits", onnx.TensorProto.FLOAT, self._odds.size),
                ("scores", onnx.TensorProto.FLOAT, self._candidates),
                ("ids", onnx.TensorProto.INT64, self._candidates),
            )
        }
        node = onnx.helper.make_node("TopK", ["logits", "size"], ["scores", "ids"])
        graph = onnx.helper.make_graph(
            [node], "top", [shapes["logits"]], [shapes["scores"], shapes["ids"]], [size]
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _drawn(odds: _Odds, mass: _Odds, limit: _Odds, min_p: _Odds, uniform: _Odds) -> _Ids:
    """Which column each row draws. `odds` fall along it, `mass` is their running sum. A token is
    kept while those before it weigh less than `limit` and it has odds of at least `min_p`."""
    kept = odds >= min_p
    kept[:, 1:] &= mass[:, :-1] < limit
    last = kept.sum(axis=1) - 1
    target = uniform * mass[np.arange(len(mass)), last][:, None]
    drawn: _Ids = (mass <= target).sum(axis=1)
    return drawn
