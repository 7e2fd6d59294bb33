"""Models as the hub has them: `config.json`, safetensors and a tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.safetensors import write_safetensors

_VOCABULARY: Final = 49152
_HIDDEN, _MLP, _HEADS, _KV_HEADS, _HEAD_SIZE, _LAYERS = 64, 128, 2, 1, 32, 2
_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def put(directory: Path, tokenizer: Path, **config: Any) -> Path:
    """A decoder of 2 layers with random weights, which speaks with SmolLM2's tokenizer, out of a
    checkpoint of it."""
    directory.mkdir(parents=True)
    for name in _TOKENIZER:
        shutil.copyfile(tokenizer / name, directory / name)
    said = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": _MLP,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_SIZE,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        **config,
    }
    (directory / "config.json").write_text(json.dumps(said))
    ends = {"bos_token_id": 1, "eos_token_id": [2, 0]}
    (directory / "generation_config.json").write_text(json.dumps(ends))
    write_safetensors(directory / "model.safetensors", _weights())
    return directory


def _weights() -> dict[str, Any]:
    chance = np.random.default_rng(7)

    def random(*shape: int) -> Any:
        return chance.normal(0, 0.05, shape).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": random(_VOCABULARY, _HIDDEN),
        "model.norm.weight": np.ones(_HIDDEN, np.float32),
    }
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.input_layernorm.weight": np.ones(_HIDDEN, np.float32),
            f"{at}.post_attention_layernorm.weight": np.ones(_HIDDEN, np.float32),
            f"{at}.self_attn.q_proj.weight": random(_HEADS * _HEAD_SIZE, _HIDDEN),
            f"{at}.self_attn.k_proj.weight": random(_KV_HEADS * _HEAD_SIZE, _HIDDEN),
            f"{at}.self_attn.v_proj.weight": random(_KV_HEADS * _HEAD_SIZE, _HIDDEN),
            f"{at}.self_attn.o_proj.weight": random(_HIDDEN, _HEADS * _HEAD_SIZE),
            f"{at}.mlp.gate_proj.weight": random(_MLP, _HIDDEN),
            f"{at}.mlp.up_proj.weight": random(_MLP, _HIDDEN),
            f"{at}.mlp.down_proj.weight": random(_HIDDEN, _MLP),
        }
    return tensors
