"""What drawing the next tokens costs: `python -m benchmarks.sampling`.

The sampler, all rows at once, against plain numpy a row at a time (argpartition for top-k, a full
sort for top-p), alternately on the same logits, in milliseconds a step of the CPU time of the one
thread that it takes. The logits are normal ones, of spreads at which top-p 0.95 keeps about as many
tokens as it does of SmolLM2-135M-Instruct's: mostly fewer than ten, seldom more than 64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.result import quartiles
from lemonade_serve.protocol.messages import ResolvedParams
from lemonade_serve.worker.sampler import Drawing, Logits, Sampler

_SIZES = ((1, 49_152), (8, 49_152), (16, 49_152), (8, 152_000))
_SPREADS = (4.0, 7.0)
_PROMPT_TOKENS = 1000
_KINDS = {
    "greedy": ResolvedParams(temperature=0.0),
    "default": ResolvedParams(),
    "top-p only": ResolvedParams(top_k=0),
    "nothing cut": ResolvedParams(top_k=0, top_p=1.0),
    "everything": ResolvedParams(
        min_p=0.02,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        logit_bias=((5, 3.0), (7, -100.0)),
        logprobs=5,
        min_length=10**6,
    ),
}
_EOS = frozenset({0})


class PlainNumpy:
    """One sequence, drawn for by itself."""

    def __init__(self, params: ResolvedParams, prompt: list[int]) -> None:
        self._params = params
        self._random = np.random.default_rng(params.seed)
        self._seen = set(prompt)
        self._counts: dict[int, int] = {}

    def sample(self, logits: NDArray[np.float32]) -> int:
        raw = logits.copy() if self._params.logprobs is not None else logits
        self._adjust(logits)
        token = int(logits.argmax())
        if self._params.temperature:
            token = self._draw(logits)
        self._seen.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._params.logprobs is not None:
            logprobs = raw.astype(np.float64) - raw.max()
            logprobs -= np.log(np.exp(logprobs).sum())
            top = np.argpartition(raw, -self._params.logprobs)[-self._params.logprobs :]
            logprobs[top[np.argsort(-raw[top])]].tolist()
        return token

    def _adjust(self, logits: NDArray[np.float32]) -> None:
        params = self._params
        for token, bias in params.logit_bias:
            logits[token] += bias
        if params.repetition_penalty != 1:
            seen = np.fromiter(self._seen, dtype=np.int64, count=len(self._seen))
            scores, penalty = logits[seen], params.repetition_penalty
            logits[seen] = np.where(scores < 0, scores * penalty, scores / penalty)
        if params.presence_penalty or params.frequency_penalty:
            said = np.fromiter(self._counts, dtype=np.int64, count=len(self._counts))
            counts = np.fromiter(self._counts.values(), dtype=np.int64, count=len(said))
            logits[said] -= params.presence_penalty + counts * params.frequency_penalty
        if params.min_length:
            logits[list(_EOS)] = -np.inf

    def _draw(self, logits: NDArray[np.float32]) -> int:
        params = self._params
        candidates = np.arange(logits.size)
        if params.top_k:
            candidates = np.sort(np.argpartition(logits, -params.top_k)[-params.top_k :])
        scores = logits[candidates].astype(np.float64)
        odds = np.exp((scores - scores.max()) / params.temperature)
        if params.top_p < 1:
            order = np.argsort(-scores, kind="stable")
            candidates, odds = candidates[order], odds[order]
            mass = np.cumsum(odds)
            kept = int(np.searchsorted(mass, params.top_p * mass[-1])) + 1
            candidates, odds = candidates[:kept], odds[:kept]
        odds = np.where(odds >= params.min_p * odds.max(), odds, 0)
        mass = np.cumsum(odds)
        return int(candidates[np.searchsorted(mass, self._random.random() * mass[-1], "right")])


class Pair(NamedTuple):
    """Milliseconds of a step, the same one."""

    ours: float
    plain: float


def measure(params: ResolvedParams, rows: int, vocabulary: int, rounds: int) -> list[Pair]:
    random = np.random.default_rng(1)
    prompt = random.integers(vocabulary, size=_PROMPT_TOKENS).tolist()
    sampler = Sampler(vocabulary)
    drawings = [Drawing(params, prompt, _EOS) for _ in range(rows)]
    plain = [PlainNumpy(params, prompt) for _ in range(rows)]
    pairs = []
    for n in range(rounds + 2):
        spreads = random.uniform(*_SPREADS, size=(rows, 1))
        logits = random.normal(scale=spreads, size=(rows, vocabulary)).astype(np.float32)
        ways: list[Callable[[Logits], object]] = [
            lambda each: sampler.sample(each, drawings),
            lambda each: [one.sample(row) for one, row in zip(plain, each, strict=True)],
        ]
        order = (0, 1) if n % 2 else (1, 0)
        took = dict.fromkeys(order, 0.0)
        for way in order:
            took[way] = _timed(ways[way], logits.copy())
        pairs.append(Pair(took[0], took[1]))
    return pairs[2:]  # the first makes the session


def _timed(act: Callable[[Logits], object], logits: Logits) -> float:
    began = time.thread_time()
    act(logits)
    return (time.thread_time() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="of each kind and size; default 40")
    given = parser.parse_args()
    print(f"{'parameters':12} {'rows':>4} {'tokens':>7} {'ms':>8} {'plain ms':>9}  plain/ours")
    for rows, vocabulary in _SIZES:
        for kind, params in _KINDS.items():
            pairs = measure(params, rows, vocabulary, given.rounds)
            ours = statistics.median(pair.ours for pair in pairs)
            plain = statistics.median(pair.plain for pair in pairs)
            ratios = [pair.plain / pair.ours for pair in pairs]
            low, high = quartiles(ratios)
            print(
                f"{kind:12} {rows:4} {vocabulary:7} {ours:8.3f} {plain:9.3f}"
                f"  {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
            )


if __name__ == "__main__":
    main()
