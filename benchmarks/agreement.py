"""How near an import is to the exact one: top-1 agreement, KL divergence and the error of logits.

    python -m benchmarks.agreement FILE.gguf [--dtype auto] [--tokens 64]

Imports the file in fp32 (which reproduces the reference, see tests/acceptance/test_fidelity.py) and
in `--dtype`, and compares them along the greedy text of the first over 24 prompts, position by
position. The error is the rms of the differences of all logits; a shift of all alike is no error.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og
from tokenizers import Tokenizer

from lemonade_serve.importers.gguf import import_gguf

_PROMPTS = (
    "The history of the Roman Empire begins",
    "In physics, energy is",
    "My favourite recipe for soup is",
    "The train left the station and",
    "import numpy as np\n\ndef mean(",
    "Dear Sir or Madam,\n",
    "Once there was a king who",
    "The three laws of motion are",
    "To install the package, run",
    "Yesterday I went to the market and",
    "Water boils at",
    "The French Revolution started in",
    "A poem about autumn:\n",
    "Q: What is a prime number?\nA:",
    "The largest ocean on Earth is",
    "He opened the door slowly and saw",
    "The function returns a list of",
    "Photosynthesis is the process",
    "In 1969, humans first",
    "The best way to learn a language is",
    "Table of contents\n1.",
    'She said, "I will',
    "The human heart has",
    "Breaking news: scientists have",
)


class _Import:
    """A fresh import: how long it took to make and to load, and its logits along a text."""

    def __init__(self, source: Path, dtype: str, into: Path) -> None:
        into.mkdir()
        began = time.perf_counter()
        self.report = import_gguf(source, into, dtype=dtype, progress=lambda stage, done: None)
        self.import_s = time.perf_counter() - began
        began = time.perf_counter()
        config = og.Config(str(into))
        options = {"intra_op_num_threads": len(os.sched_getaffinity(0))}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)
        self.load_s = time.perf_counter() - began
        self.decode_s: list[float] = []

    def start(self, prompt: list[int], tokens: int) -> None:
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=len(prompt) + tokens, batch_size=1)
        self._generator = og.Generator(self._model, params)
        self._generator.append_tokens(prompt)

    def logits(self) -> npt.NDArray[np.float64]:
        return np.array(self._generator.get_logits(), np.float64).reshape(-1)

    def append(self, token: int) -> None:
        began = time.perf_counter()
        self._generator.append_tokens([token])
        self.decode_s.append(time.perf_counter() - began)

    def line(self) -> str:
        speed = 1 / float(np.median(self.decode_s))
        return (
            f"{self.report.dtype}: {self.report.bytes / 1e6:.0f} MB, imported in "
            f"{self.import_s:.1f} s, loaded in {self.load_s:.2f} s, {speed:.0f} tokens/s"
        )


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max()
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        exact = _Import(given.file, "fp32", Path(scratch, "exact"))
        other = _Import(given.file, given.dtype, Path(scratch, "other"))
        tokenizer = Tokenizer.from_file(str(Path(scratch, "exact", "tokenizer.json")))
        agreeing, divergence = 0, []
        errors, spreads = [], []
        for prompt in _PROMPTS:
            ids = tokenizer.encode(prompt).ids
            for side in (exact, other):
                side.start(ids, given.tokens)
            for _ in range(given.tokens):
                p, q = _log_softmax(exact.logits()), _log_softmax(other.logits())
                token = int(p.argmax())
                agreeing += int(q.argmax()) == token
                errors.append(float((q - p).var()))
                spreads.append(float(p.var()))
                divergence.append(float((np.exp(p) * (p - q)).sum()))
                if len(divergence) % given.tokens:
                    for side in (exact, other):
                        side.append(token)
    for side in (exact, other):
        print(side.line())
    share, positions = agreeing / len(divergence), len(divergence)
    print(f"top-1 agreement {agreeing} of {positions} ({share:.1%}), KL {np.mean(divergence):.5f}")
    error, spread = float(np.sqrt(np.mean(errors))), float(np.sqrt(np.mean(spreads)))
    print(f"logit error {error:.4f} rms, {error / spread:.2%} of the logits' standard deviation")


if __name__ == "__main__":
    main()
