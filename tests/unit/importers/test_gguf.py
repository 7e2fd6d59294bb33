"""What an imported checkpoint computes, against numpy on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as Type

from lemonade_serve.errors import InvalidRequest, JobFailed, UnsupportedModel
from lemonade_serve.importers.gguf import import_gguf
from lemonade_serve.importers.levels import WHOLE_ZERO
from tests.unit.importers import reference
from tests.unit.importers.files import HEAD_SIZE, KV_HEADS, LAYERS, Model
from tests.unit.importers.session import import_model

IDS = [3, 17, 42, 99, 5, 7, 200, 13, 14, 15, 16, 250]
ARCHITECTURES = ["llama", "gemma3"]
QUANTISED = [
    Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K,
    Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS,
]  # fmt: skip
FLOATS = [Type.F16, Type.BF16, Type.F32]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", [*QUANTISED, *FLOATS])
def test_fp32_computes_what_the_file_says(architecture: str, kind: Type, tmp_path: Path) -> None:
    model = Model(architecture, kind, tied=True)
    report, session = import_model(model, tmp_path, "fp32")
    expected = reference.logits(architecture, model.floats(), IDS)[-1]
    np.testing.assert_allclose(session.logits(IDS), expected, atol=2e-4 * np.abs(expected).max())
    assert (report.dtype, report.requantised) == ("fp32", 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_after_a_prompt_equals_the_prompt_in_one_go(
    architecture: str, tmp_path: Path
) -> None:
    model = Model(architecture, Type.Q8_0, tied=False)
    _, session = import_model(model, tmp_path, "fp32")
    expected = reference.logits(architecture, model.floats(), IDS)
    bound = 2e-4 * np.abs(expected).max()
    np.testing.assert_allclose(session.logits(IDS[:7]), expected[6], atol=bound)
    for position in range(7, len(IDS)):
        got = session.logits([IDS[position]])
        np.testing.assert_allclose(got, expected[position], atol=bound)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", [*QUANTISED, *FLOATS])
@pytest.mark.parametrize("tied", [True, False])
def test_the_default_stays_close_to_the_file(
    architecture: str, kind: Type, tied: bool, tmp_path: Path
) -> None:
    model = Model(architecture, kind, tied=tied)
    report, session = import_model(model, tmp_path)
    expected = reference.logits(architecture, model.floats(), IDS)[-1]
    error = session.logits(IDS) - expected
    # Activations are rounded to int8 at every matrix: about a percent each.
    assert np.sqrt(np.mean(error**2)) < 0.06 * np.std(expected)
    assert report.dtype == ("int4" if kind is Type.Q4_0 else "int8")
    assert (report.requantised == 0) is (kind in WHOLE_ZERO)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q4_K])
@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_a_four_bit_file_can_be_had_in_four_and_eight_bit(
    kind: Type, dtype: str, tmp_path: Path
) -> None:
    model = Model("llama", kind, tied=False)
    report, session = import_model(model, tmp_path, dtype)
    expected = reference.logits("llama", model.floats(), IDS)[-1]
    error = session.logits(IDS) - expected
    assert np.sqrt(np.mean(error**2)) < 0.06 * np.std(expected)
    assert report.dtype == dtype


def test_matrices_of_unlike_types_are_not_stacked(tmp_path: Path) -> None:
    model = Model("llama", Type.Q4_K, tied=True)
    model.add("blk.1.attn_v.weight", KV_HEADS * HEAD_SIZE, 256, kind=Type.Q6_K)
    report, session = import_model(model, tmp_path)
    expected = reference.logits("llama", model.floats(), IDS)[-1]
    error = session.logits(IDS) - expected
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(expected)
    assert report.forms == {"8 bit, zero point": 14, "8 bit": 1}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_attention_has_no_scale_of_its_own(architecture: str, tmp_path: Path) -> None:
    import_model(Model(architecture, Type.Q4_1, tied=True), tmp_path)
    graph = onnx.load(tmp_path / "checkpoint" / "model.onnx", load_external_data=False).graph
    scales = [
        attribute.f
        for node in graph.node
        if node.op_type == "GroupQueryAttention"
        for attribute in node.attribute
        if attribute.name == "scale"
    ]
    assert scales == [1.0] * LAYERS


def test_llama_3_rope_divisors_are_applied(tmp_path: Path) -> None:
    model = Model("llama", Type.Q8_0, tied=True)
    model.add("rope_freqs.weight", HEAD_SIZE // 2, mean=3.0)
    _, session = import_model(model, tmp_path, "fp32")
    expected = reference.logits("llama", model.floats(), IDS)[-1]
    np.testing.assert_allclose(session.logits(IDS), expected, atol=2e-4 * np.abs(expected).max())


def test_a_checkpoint_says_where_it_came_from(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    into = tmp_path / "checkpoint"
    into.mkdir()
    source = Model("llama", Type.Q4_1, tied=True).write(tmp_path / "Tiny-1M.Q4_1.gguf")
    report = import_gguf(
        source, into, progress=lambda stage, fraction: seen.append((stage, fraction))
    )
    assert (report.name, report.license) == ("Tiny-1M", "apache-2.0")
    assert (report.lossless, report.requantised) == (0, 15)
    assert json.loads((into / "provenance.json").read_bytes())["dtype"] == report.dtype == "int8"
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert (seen[0], seen[-1]) == (("read", 0.0), ("done", 1.0))


def test_genai_config_names_every_end_of_turn(tmp_path: Path) -> None:
    import_model(Model("gemma3", Type.Q8_0, tied=True), tmp_path)
    config = json.loads((tmp_path / "checkpoint" / "genai_config.json").read_bytes())
    assert config["model"]["eos_token_id"] == [1, 4]
    assert (config["model"]["bos_token_id"], config["model"]["pad_token_id"]) == (2, 0)
    assert config["model"]["context_length"] == 64
    assert config["search"]["past_present_share_buffer"] is True


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q5_K, Type.F16])
def test_int4_that_would_requantise_is_refused(kind: Type, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="can be had in: auto, fp32, int8"):
        import_model(Model("llama", kind, tied=True), tmp_path, "int4")


@pytest.mark.parametrize("dtype", ["fp16", "q4"])
def test_an_unknown_dtype_is_refused_with_what_can_be_had(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="had in: auto, fp32, int4, int8") as caught:
        import_model(Model("llama", Type.Q4_0, tied=True), tmp_path, dtype)
    assert caught.value.param == "dtype"


def test_a_source_that_is_not_there_is_a_failed_job(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="No such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path, progress=lambda stage, fraction: None)
