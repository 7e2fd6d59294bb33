"""Imports of real files against transformers in float32 on the same weights (tests/data).

fp32 must be the same model. The default rounds activations to int8 (accuracy_level 4), so near-ties
flip and nothing else may: positions count one by one, teacher-forced along the reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og
import pytest
from tokenizers import Tokenizer

from lemonade_serve.importers.gguf import import_gguf

DATA = Path(__file__).parent.parent / "data"
SHA256 = {
    "smollm2-135m": "c8fd1dc97f2cda75c5e0cd30edad59d8ffd941119543cc7d6c828c6fbfc301c4",
    "gemma3-270m": "07b69761ee34689eac6e6b9099360343a6683bd9bcd7073e9d11ac6c0b1170ea",
}
Logits = npt.NDArray[np.float32]


class Case(msgspec.Struct, frozen=True):
    """One prompt and what the reference answers greedily."""

    text: str
    prompt_ids: list[int]
    greedy_ids: list[int]
    greedy_text: str
    logits_top5: list[list[tuple[int, float]]]


class Reference(msgspec.Struct, frozen=True):
    """All prompts of one model."""

    cases: list[Case]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """An import against the reference, over all greedy positions.

    `largest_flip` is the reference's margin between its first two tokens, largest over the
    positions at which the import prefers another token. `largest_error` is over the listed logits.
    """

    positions: int
    agreeing: int
    largest_error: float
    largest_flip: float

    @property
    def agreement(self) -> float:
        """Share of positions with the reference's token first."""
        return self.agreeing / self.positions


def _reference(name: str) -> Reference:
    content = (DATA / f"{name}-reference.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]
    return msgspec.json.decode(content, type=Reference)


def _load(checkpoint: Path) -> og.Model:
    config = og.Config(str(checkpoint))
    options = {"session_options": {"intra_op_num_threads": 2}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    return og.Model(config)


def _forced_logits(model: og.Model, case: Case) -> Iterator[Logits]:
    """Logits at each greedy position, given the reference's tokens before it."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(case.prompt_ids) + len(case.greedy_ids))
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.array(case.prompt_ids, np.int32))
    for token in case.greedy_ids[:-1]:
        yield np.array(generator.get_logits()).reshape(-1)
        generator.append_tokens(np.array([token], np.int32))
    yield np.array(generator.get_logits()).reshape(-1)


def _compare(checkpoint: Path, reference: Reference) -> Comparison:
    model = _load(checkpoint)
    errors, flips, positions = [0.0], [0.0], 0
    for case in reference.cases:
        for logits, top in zip(_forced_logits(model, case), case.logits_top5, strict=True):
            positions += 1
            errors += [abs(float(logits[token]) - value) for token, value in top]
            if int(logits.argmax()) != top[0][0]:
                flips.append(top[0][1] - top[1][1])
    return Comparison(
        positions=positions,
        agreeing=positions - (len(flips) - 1),
        largest_error=max(errors),
        largest_flip=max(flips),
    )


def _check(
    gguf: Path, name: str, dtype: str, folder: Path, record: pytest.FixtureRequest
) -> Comparison:
    """Import, compare, and keep the figures: in the report, and on the terminal with `-s`."""
    reference = _reference(name)
    report = import_gguf(gguf, folder, dtype=dtype, progress=lambda stage, fraction: None)
    _check_tokenizer(folder, reference)
    comparison = _compare(folder, reference)
    figures = msgspec.to_builtins(comparison) | {"bytes": report.bytes, "dtype": report.dtype}
    for key, value in figures.items():
        record.node.user_properties.append((key, value))
    print(f"\n{name} {dtype}: {comparison.agreement:.4f} {figures}")  # noqa: T201
    return comparison


def _check_tokenizer(checkpoint: Path, reference: Reference) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    for case in reference.cases:
        assert tokenizer.encode(case.text).ids == case.prompt_ids
        assert tokenizer.decode(case.greedy_ids, skip_special_tokens=False) == case.greedy_text


def _assert_the_same_model(comparison: Comparison) -> None:
    assert comparison.agreeing == comparison.positions
    assert comparison.largest_error < 0.01


def test_smollm2_in_fp32_is_the_reference(
    smollm2_gguf: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    comparison = _check(smollm2_gguf, "smollm2-135m", "fp32", tmp_path, request)
    _assert_the_same_model(comparison)


@pytest.mark.parametrize("dtype", ["auto", "int4"])
def test_smollm2_agrees_with_the_reference_but_for_near_ties(
    dtype: str, smollm2_gguf: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    comparison = _check(smollm2_gguf, "smollm2-135m", dtype, tmp_path, request)
    assert comparison.agreement >= 0.93
    assert comparison.largest_flip < 0.5


@pytest.mark.system
def test_gemma3_in_fp32_is_the_reference(
    gemma3_gguf: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    comparison = _check(gemma3_gguf, "gemma3-270m", "fp32", tmp_path, request)
    _assert_the_same_model(comparison)


@pytest.mark.system
def test_gemma3_agrees_with_the_reference_but_for_near_ties(
    gemma3_gguf: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    comparison = _check(gemma3_gguf, "gemma3-270m", "auto", tmp_path, request)
    assert comparison.agreement >= 0.96
    assert comparison.largest_flip < 0.5
