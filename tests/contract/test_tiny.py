"""The tiny checkpoints are whole ones: whoever runs them says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lemonade_serve.protocol.messages import Load, ResolvedParams
from lemonade_serve.worker.engines.base import Sampled, Sequence
from lemonade_serve.worker.sampler import Sampler
from tests import tiny
from tests.graphs import HEAD_SIZE, Plan

PROMPT = [5, 100, 20, 511, 7, 300, 41, 8, 90, 250, 77, 19]
TOKENS = 12

PLANS = [
    Plan(),
    Plan(positions=True),
    Plan(dtype="float16"),
    Plan(dtype="float16", positions=True, bits=4),
    Plan(bits=4, accuracy_level=4, pruned=True),
    Plan(window=8),
    Plan(grouped=False),
    Plan(grouped=False, dtype="float16"),
]


def said_by_onnxruntime(directory: Path, plan: Plan) -> list[int]:
    """With an empty past at every step: nothing is remembered."""
    session = ort.InferenceSession(
        str(directory / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    past = np.zeros((1, plan.kv_heads, 0, HEAD_SIZE), plan.dtype)
    tokens = list(PROMPT)
    for _ in range(TOKENS):
        ids = np.array([tokens])
        fed = {value.name: past for value in session.get_inputs()}
        fed |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if plan.takes_positions:
            fed["position_ids"] = np.arange(len(tokens))[None]
        (logits,) = session.run(["logits"], fed)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def said_by_onnxruntime_genai(directory: Path) -> list[int]:
    from lemonade_serve.worker.engines.genai import GenaiEngine

    load = Load(
        path=str(directory),
        execution_provider="cpu",
        threads=1,
        sequence_slots=1,
        idle_sequences=0,
        prefill_chunk_tokens=64,
    )
    engine = GenaiEngine(load, context_length=64)
    sampler = Sampler(ResolvedParams(temperature=0.0), PROMPT, frozenset())
    engine.submit(Sequence(1, list(PROMPT), TOKENS, sampler))
    steps = [step for _ in range(TOKENS + 1) for step in engine.step()]
    engine.release(1)
    return [step.token for step in steps if isinstance(step, Sampled)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_tiny_decoder_says_the_same_on_both_runtimes(tmp_path: Path, plan: Plan) -> None:
    directory = tiny.put(tmp_path / "made", plan)
    said = said_by_onnxruntime_genai(directory)
    assert said == said_by_onnxruntime(directory, plan)
    assert len(set(said)) > TOKENS // 2
