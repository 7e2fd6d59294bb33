"""What is not supported is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.architecture import Decoder, describe
from lemonade_serve.importers.container import Container
from tests.unit.importers.files import HIDDEN, Model


def _describe(model: Model, folder: Path) -> Decoder:
    return describe(Container(model.write(folder / "tiny.gguf")))


@pytest.fixture
def llama() -> Model:
    return Model("llama", Type.F32, tied=True)


@pytest.fixture
def gemma() -> Model:
    return Model("gemma3", Type.F32, tied=True)


def test_another_architecture_is_named(llama: Model, tmp_path: Path) -> None:
    llama.architecture = "qwen3"
    with pytest.raises(
        UnsupportedModel, match="'qwen3' is not supported; supported: gemma3, llama"
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
        ("llama.attention.sliding_window", 8, "llama.attention.sliding_window asks for"),
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
    rows = rows.reshape(-1)[: 512 * 84].reshape(512, 84)
    llama.tensors["blk.0.ffn_up.weight"] = (Type.Q2_K, shape, rows)
    with pytest.raises(UnsupportedModel, match=r"'blk\.0\.ffn_up\.weight' has the type Q2_K"):
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
