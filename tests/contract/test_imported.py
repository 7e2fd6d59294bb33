"""Imported checkpoints of every architecture say the same on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from tests.contract.test_tiny import load, said_by
from tests.unit.importers.files import Model
from tests.unit.importers.session import import_model
from tests.unit.importers.variants import IDS, VARIANTS

CONTEXT = 32  # Phi's, without its long frequencies
TOKENS = CONTEXT - len(IDS)
PROMPTS = {n: IDS[: 7 * n + 6] for n in range(3)}  # two of them longer than any window


def _check(checkpoint: Path) -> None:
    engine = load(checkpoint, "auto", context_length=CONTEXT)
    assert engine.name == "batched"
    alone = {n: said_by(engine, {n: prompt}, TOKENS)[n] for n, prompt in PROMPTS.items()}
    assert said_by(engine, PROMPTS, TOKENS) == alone
    genai = load(checkpoint, "onnxruntime-genai", context_length=CONTEXT)
    assert {n: said_by(genai, {n: prompt}, TOKENS)[n] for n, prompt in PROMPTS.items()} == alone


@pytest.mark.parametrize("name", VARIANTS)
def test_a_tiny_import_says_the_same_on_both_engines(name: str, tmp_path: Path) -> None:
    import_model(VARIANTS[name](), tmp_path, "fp32")
    _check(tmp_path / "checkpoint")


@pytest.mark.parametrize("architecture", ["granite", "phi3", "qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "dtype"), [(Type.Q4_K, "int4"), (Type.Q6_K, "auto")])
def test_a_quantised_one_does_too(
    architecture: str, kind: Type, dtype: str, tmp_path: Path
) -> None:
    import_model(Model(architecture, kind, tied=True), tmp_path, dtype)
    _check(tmp_path / "checkpoint")
