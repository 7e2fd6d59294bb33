"""A GGUF file of the architecture llama as the hub has models: float32 safetensors and their JSON.

    python -m benchmarks.safetensors FILE.gguf DIRECTORY

What is quantised in the file is dequantised, exactly; q and k rows go back into the order that
transformers rotates. So it is the float model that an import of the same file is measured against,
and a source for `lemonade-serve convert` where no hub is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lemonade_serve.importers.container import Container
from lemonade_serve.importers.levels import floats
from lemonade_serve.importers.tokenizer import write_tokenizer
from lemonade_serve.importers.vocabulary import Vocabulary, read_vocabulary
from lemonade_serve.importers.weights import unpermuted

Floats = npt.NDArray[np.float32]

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ALIGNMENT = 8


def write_source(gguf: Path, into: Path) -> None:
    """Write `config.json`, `model.safetensors`, the tokenizer and `generation_config.json` into an
    existing directory. Raises UnsupportedModel for what the importer does not read either."""
    container = Container(gguf)
    metadata = container.metadata
    vocabulary = read_vocabulary(metadata, container.tensors["token_embd.weight"].shape[0])
    config = _config(container, vocabulary)
    tensors: dict[str, Floats] = {}
    for name, tensor in container.tensors.items():
        rows = container.rows(tensor)
        heads = {
            "attn_q": config["num_attention_heads"],
            "attn_k": config["num_key_value_heads"],
        }.get(name.split(".")[-2])
        values = floats(
            rows if heads is None else rows[unpermuted(tensor.rows, heads)], tensor.type
        )
        tensors[_renamed(name)] = values.reshape(tensor.shape)
    write_safetensors(into / "model.safetensors", tensors)
    write_tokenizer(into, vocabulary, metadata, config["max_position_embeddings"])
    _write(into / "config.json", config)
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": list(vocabulary.eos)}
    _write(into / "generation_config.json", ends)


def write_safetensors(path: Path, tensors: Mapping[str, Floats]) -> None:
    """The format: the header's length (uint64, little-endian), the header (JSON), the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + 4 * prod(values.shape)
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": (begin, end)}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").data)


def _config(container: Container, vocabulary: Vocabulary) -> dict[str, Any]:
    metadata = container.metadata
    heads = metadata.integer("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": len(vocabulary.tokens),
        "hidden_size": metadata.integer("llama.embedding_length"),
        "intermediate_size": metadata.integer("llama.feed_forward_length"),
        "num_hidden_layers": metadata.integer("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.integer("llama.attention.head_count_kv", heads),
        "max_position_embeddings": metadata.integer("llama.context_length"),
        "rms_norm_eps": metadata.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("llama.rope.freq_base", 10_000.0),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in container.tensors,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos[0],
        "pad_token_id": vocabulary.padding,
    }


def _renamed(name: str) -> str:
    kind, _, last = name.rpartition(".")
    if kind in _OUTER:
        return f"{_OUTER[kind]}.{last}"
    _, layer, part = kind.split(".")
    return f"model.layers.{layer}.{_LAYER[part]}.{last}"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("into", type=Path)
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    write_source(given.file, given.into)


if __name__ == "__main__":
    main()
