"""What is not supported is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.architectures.decoder import Decoder
from lemonade_serve.importers.architectures.table import describe
from lemonade_serve.importers.container import Container
from tests.unit.importers.files import HIDDEN, Model
from tests.unit.importers.variants import VARIANTS


def _describe(model: Model, folder: Path) -> Decoder:
    return describe(Container(model.write(folder / "tiny.gguf")))


@pytest.fixture
def llama() -> Model:
    return Model("llama", Type.F32, tied=True)


@pytest.fixture
def gemma() -> Model:
    return Model("gemma3", Type.F32, tied=True)


def test_another_architecture_is_named(llama: Model, tmp_path: Path) -> None:
    llama.architecture = "qwen3moe"
    with pytest.raises(
        UnsupportedModel,
        match="'qwen3moe' is not supported; supported: gemma3, granite, llama, phi3, qwen2, qwen3",
    ):
        _describe(llama, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.expert_count", 8, "mixture of experts"),
        ("llama.rope.scaling.type", "yarn", "rope scaling 'yarn'"),
        ("llama.rope.dimension_count", 32, "part of each head"),
        ("llama.attention.value_length", 32, "unequal key and value"),
        ("llama.attention.head_count_kv", [2, 2], "differs by layer"),
        ("llama.attention.head_count_kv", 3, "do not divide"),
        ("llama.attention.sliding_window_pattern", 2, "sliding_window_pattern asks for"),
        ("llama.attention.key_length", 24, "not a multiple of 16"),
        ("llama.logit_scale", 2.0, "llama.logit_scale asks for"),
        ("llama.block_count", 0, "llama.block_count is 0"),
        ("llama.block_count", 1_000_000, "only 20 tensors"),
        ("llama.block_count", 3, "'blk.2.attn_norm.weight' is missing"),
        ("llama.context_length", 1 << 30, "a context of 1073741824"),
        ("llama.attention.key_length", 32, "'blk.0.attn_q.weight' has the shape"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "not a sensible number"),
        ("split.count", 2, "split GGUF"),
    ],
)
def test_metadata_that_is_not_supported_is_named(
    llama: Model, key: str, value: object, message: str, tmp_path: Path
) -> None:
    llama.metadata[key] = value
    with pytest.raises(UnsupportedModel, match=message):
        _describe(llama, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "key", "value", "message"),
    [
        ("granite", "granite.expert_count", 40, r"mixture of experts \(granite"),
        ("granite", "granite.rope.scaling.finetuned", False, "without rotary positions"),
        ("granite", "granite.logit_scale", 0.0, "granite.logit_scale is not a sensible number"),
        ("qwen2", "qwen2.rope.scaling.type", "yarn", "rope scaling 'yarn'"),
        ("qwen3", "qwen3.pooling_type", 3, "qwen3.pooling_type asks for"),
        ("phi3", "phi3.rope.scaling.type", "yarn", "rope scaling 'yarn'"),
        ("phi3", "phi3.rope.scaling.type", "longrope", "rope scaling 'longrope'"),
        ("phi3", "phi3.rope.dimension_count", 48, "part of each head"),
    ],
)
def test_what_an_architecture_has_and_is_not_supported_is_named(
    architecture: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    model = Model(architecture, Type.F32, tied=True)
    model.metadata[key] = value
    with pytest.raises(UnsupportedModel, match=message):
        _describe(model, tmp_path)


@pytest.mark.parametrize(("window", "felt"), [(0, None), (8, 8), (64, None), (4096, None)])
def test_a_window_is_every_layers_unless_it_holds_the_whole_context(
    window: int, felt: int | None, llama: Model, tmp_path: Path
) -> None:
    llama.metadata["llama.attention.sliding_window"] = window
    assert {layer.window for layer in _describe(llama, tmp_path).layers} == {felt}


def test_phi3_with_two_sets_of_frequencies_is_held_to_the_context_of_the_short_one(
    tmp_path: Path,
) -> None:
    model = VARIANTS["phi3-long"]()
    decoder = _describe(model, tmp_path)
    assert (decoder.context, decoder.divisors) == (32, "rope_factors_short.weight")
    model.metadata["phi3.rope.scaling.type"] = "longrope"
    assert _describe(model, tmp_path) == decoder
    model.metadata["phi3.rope.scaling.type"] = "linear"
    with pytest.raises(UnsupportedModel, match="rope scaling 'linear'"):
        _describe(model, tmp_path)
    del model.metadata["phi3.rope.scaling.type"]
    del model.tensors["rope_factors_short.weight"]
    with pytest.raises(UnsupportedModel, match=r"'rope_factors_short\.weight' is missing"):
        _describe(model, tmp_path)


def test_phi3_with_a_longer_context_must_say_how_attention_is_scaled(tmp_path: Path) -> None:
    model = VARIANTS["phi3-long"]()
    del model.metadata["phi3.rope.scaling.attn_factor"]
    with pytest.raises(UnsupportedModel, match=r"phi3\.rope\.scaling\.attn_factor is missing"):
        _describe(model, tmp_path)


def test_qwen2_without_its_biases_is_refused(tmp_path: Path) -> None:
    model = Model("qwen2", Type.F32, tied=True)
    del model.tensors["blk.1.attn_k.bias"]
    with pytest.raises(UnsupportedModel, match=r"'blk\.1\.attn_k\.bias' is missing"):
        _describe(model, tmp_path)


def test_softcapping_in_gemma3_is_named(gemma: Model, tmp_path: Path) -> None:
    gemma.metadata["gemma3.final_logit_softcapping"] = 30.0
    with pytest.raises(UnsupportedModel, match=r"gemma3\.final_logit_softcapping"):
        _describe(gemma, tmp_path)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight"])
def test_an_unexpected_tensor_is_named(llama: Model, name: str, tmp_path: Path) -> None:
    llama.add(name, HIDDEN)
    with pytest.raises(UnsupportedModel, match=f"unexpected tensors: '{name}'"):
        _describe(llama, tmp_path)


def test_a_missing_tensor_is_named(llama: Model, tmp_path: Path) -> None:
    del llama.tensors["blk.1.ffn_up.weight"]
    with pytest.raises(UnsupportedModel, match=r"'blk\.1\.ffn_up\.weight' is missing"):
        _describe(llama, tmp_path)


def test_an_unsupported_tensor_type_is_named(llama: Model, tmp_path: Path) -> None:
    llama.add("blk.0.ffn_up.weight", 512, HIDDEN)
    _, shape, rows = llama.tensors["blk.0.ffn_up.weight"]
    rows = rows.reshape(-1)[: 512 * 66].reshape(512, 66)
    llama.tensors["blk.0.ffn_up.weight"] = (Type.IQ2_XXS, shape, rows)
    with pytest.raises(
        UnsupportedModel,
        match=r"'blk\.0\.ffn_up\.weight' has the type IQ2_XXS: not supported; supported: BF16, F16",
    ):
        _describe(llama, tmp_path)


def test_gemma3_sees_everything_every_sixth_layer_unless_told(gemma: Model, tmp_path: Path) -> None:
    local, everywhere = _describe(gemma, tmp_path).layers
    assert (local.window, local.rope.base) == (5, 10_000.0)
    assert (everywhere.window, everywhere.rope.base) == (None, 1_000_000.0)
    del gemma.metadata["gemma3.attention.sliding_window_pattern"]
    assert [layer.window for layer in _describe(gemma, tmp_path).layers] == [5, 5]


def test_linear_scaling_is_for_gemma3s_global_layers_alone(gemma: Model, tmp_path: Path) -> None:
    gemma.metadata |= {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    local, everywhere = _describe(gemma, tmp_path).layers
    assert (local.rope.factor, everywhere.rope.factor) == (1.0, 8.0)
