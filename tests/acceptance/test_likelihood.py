"""Log probabilities against plain ONNX Runtime on the checkpoint's own graph.

A float32 graph gives the same logits however a text is cut: one pass over all of it is the truth.
The real checkpoint rounds activations to int8, and so otherwise for one row than for many: there
the truth is a pass that reads what the engine reads, a prompt at once and what follows token by
token, and an echoed prompt token by token too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lemonade_serve.worker.vocabulary import Vocabulary
from tests import checkpoints, tiny
from tests.daemon import MODEL, Daemon
from tests.graphs import Plan

VOCABULARY = 49152
TOLERANCE = 1e-3
ENGINES = pytest.mark.parametrize("engine", ["batched", "onnxruntime-genai"])
TEXTS = ["The capital of France is", "🍋 and 你好 once upon a time", "1, 2, 3, 4,"]

Logits = NDArray[np.float64]


class Direct:
    """The graph of a checkpoint, its past in hand."""

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")  # as in the engines
        self._session = ort.InferenceSession(
            str(directory / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        decoder = json.loads((directory / checkpoints.CONFIG).read_bytes())["model"]["decoder"]
        self._heads, self._head_size = decoder["num_key_value_heads"], decoder["head_size"]
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        vocabulary = Vocabulary(directory)
        spelt = [vocabulary.bytes_of(token) for token in range(VOCABULARY)]
        self.ids = {b.decode("utf-8", "backslashreplace"): id for id, b in enumerate(spelt)}
        """By what an answer calls them."""

    def logprobs(self, tokens: Sequence[int], cuts: Sequence[int]) -> Logits:
        """Of the last token that each pass reads, what it says of the next one; the passes end at
        `cuts`. Of a graph that says it for all tokens, all."""
        past = {
            value.name: np.zeros((1, self._heads, 0, self._head_size), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past")
        }
        rows, begin = [], 0
        names = [output.name for output in self._session.get_outputs()]
        for end in cuts:
            ids = np.array([tokens[begin:end]])
            fed = {"input_ids": ids, "attention_mask": np.ones((1, end), np.int64), **past}
            said = dict(zip(names, self._session.run(None, fed), strict=True))
            rows.append(said.pop("logits")[0].astype(np.float64))
            past = {name.replace("present", "past_key_values"): v for name, v in said.items()}
            begin = end
        logits = np.concatenate(rows)
        peaks = logits.max(axis=1, keepdims=True)
        told: Logits = logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))
        return told


class Answer(NamedTuple):
    """All tokens, the prompt's first; the log probabilities of those that were told, but the first
    of all."""

    ids: list[int]
    logprobs: list[float]


def answered(
    daemon: Daemon, model: str, direct: Direct, text: str, *, echo: bool, **said: Any
) -> Answer:
    prompt = direct.tokenizer.encode(text).ids
    asked = {"max_tokens": 12, "logprobs": 0, "echo": echo, "seed": 1, **said}
    (choice,) = daemon.complete(model, prompt=prompt, **asked).json()["choices"]
    told = choice["logprobs"]
    ids = [direct.ids[token] for token in told["tokens"]]
    if echo:
        assert ids[: len(prompt)] == prompt
        return Answer(ids, told["token_logprobs"][1:])
    return Answer(prompt + ids, told["token_logprobs"])


def of_next(logprobs: Logits, tokens: Sequence[int]) -> Logits:
    """What each position but the last says of the token that comes next."""
    picked: Logits = logprobs[np.arange(len(tokens) - 1), tokens[1:]]
    return picked


@pytest.fixture(scope="module")
def float_dir(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a tiny checkpoint in float32 that speaks with the real one's tokenizer."""
    root = tmp_path_factory.mktemp("float")
    plan = Plan(vocabulary=VOCABULARY)
    tiny.put_with_tokenizer(root / "tiny", plan, checkpoints.original(cache_dir))
    return root


@ENGINES
def test_one_pass_over_the_whole_text_says_the_same(
    float_dir: Path, start_daemon: Callable[..., Daemon], engine: str
) -> None:
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(float_dir), LEMONADE_WORKER__ENGINE=engine)
    direct = Direct(float_dir / "tiny")
    for text in TEXTS:
        for temperature in (0, 1):
            answer = answered(daemon, "tiny", direct, text, echo=True, temperature=temperature)
            expected = of_next(direct.logprobs(answer.ids, [len(answer.ids)]), answer.ids)
            assert abs(sum(answer.logprobs) - expected.sum()) < TOLERANCE
            plain = answered(daemon, "tiny", direct, text, echo=False, temperature=temperature)
            assert plain.ids == answer.ids
            own = expected[-len(plain.logprobs) :]
            assert abs(sum(plain.logprobs) - own.sum()) < TOLERANCE


@ENGINES
def test_the_real_checkpoint_says_what_its_graph_does(
    cache_dir: Path, start_daemon: Callable[..., Daemon], engine: str
) -> None:
    daemon = start_daemon(LEMONADE_WORKER__ENGINE=engine)
    direct = Direct(checkpoints.original(cache_dir))
    for text in TEXTS:
        answer = answered(daemon, MODEL, direct, text, echo=True, temperature=0)
        steps = list(range(1, len(answer.ids) + 1))
        expected = of_next(direct.logprobs(answer.ids, steps), answer.ids)
        assert abs(sum(answer.logprobs) - expected.sum()) < TOLERANCE
        plain = answered(daemon, MODEL, direct, text, echo=False, temperature=0)
        prompt = len(plain.ids) - len(plain.logprobs)
        steps = list(range(prompt, len(plain.ids) + 1))
        own = of_next(direct.logprobs(plain.ids, steps), plain.ids[prompt - 1 :])
        assert abs(sum(plain.logprobs) - own.sum()) < TOLERANCE
