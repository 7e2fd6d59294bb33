"""What a model in safetensors is, before its weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.safetensors import write_safetensors
from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.source import Kind, read_source

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 10,
    "hidden_size": 4,
    "something_else": {"nested": 1},
}


def put(directory: Path, **config: Any) -> Path:
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (directory / "tokenizer.json").write_text("{}")
    tensors = {"a": np.ones((10, 4), np.float32), "b": np.ones(3, np.float32)}
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def test_its_weights_are_counted_and_not_read(tmp_path: Path) -> None:
    source = read_source(put(tmp_path))
    assert (source.kind, source.architecture) == (Kind.DECODER, "LlamaForCausalLM")
    assert source.parameters == 43
    assert source.checkpoint_bytes("fp32") == 4 * 43 + 4 * 40


def test_parts_are_found_by_their_index(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1-of-1.safetensors")
    index = {"weight_map": {"a": "model-1-of-1.safetensors", "b": "model-1-of-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_source(tmp_path).parameters == 43
    index["weight_map"]["b"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedModel, match=r"no \.\./elsewhere"):
        read_source(tmp_path)


def test_its_tokenizer_is_what_is_served(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "tokenizer.py").write_text("boom()")
    names = [path.name for path in read_source(tmp_path).tokenizer_files]
    assert names == ["tokenizer.json", "chat_template.jinja"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["BertModel"]}, "BertModel is no decoder"),
        ({"architectures": []}, "llama is no decoder"),
        ({"architectures": ["OlmoForCausalLM"]}, "makes another model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised already"),
        ({"architectures": 7}, r"config\.json"),
    ],
)
def test_what_cannot_be_converted_is_said(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(UnsupportedModel, match=says):
        read_source(put(tmp_path, **config))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    (put(tmp_path) / name).unlink()
    with pytest.raises(UnsupportedModel, match=name):
        read_source(tmp_path)


@pytest.mark.parametrize("header", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, header: bytes) -> None:
    (put(tmp_path) / "model.safetensors").write_bytes(header)
    with pytest.raises(UnsupportedModel, match="no safetensors file"):
        read_source(tmp_path)
