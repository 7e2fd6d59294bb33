"""Write tests/data/architectures.json: what transformers computes of the tiny variants.

    python -m tests.unit.importers.write_reference

For an environment with torch and transformers (4.57 wrote what is there) besides the importers'
own gguf and msgspec; nothing else of this package runs. Weights go from GGUF's names and
order of rows to transformers' as llama.cpp's convert_hf_to_gguf.py took them the other way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.unit.importers.files import EPSILON, Floats, Model
from tests.unit.importers.variants import IDS, LISTED, VARIANTS

_INTO = Path(__file__).parents[2] / "data" / "architectures.json"
_CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3",
    "phi3-long": "Phi3", "granite": "Granite", "gemma3": "Gemma3",
}  # fmt: skip
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_qkv.weight": "self_attn.qkv_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_GEMMA_NAMES = _LAYER_NAMES | {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}


def _config(name: str, model: Model) -> dict[str, Any]:
    """What config.json would say of a variant."""
    shape, tied = model.shape, "output.weight" not in model.tensors
    common = {
        "vocab_size": len(model.tokenizer["tokenizer.ggml.tokens"]),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": EPSILON,
        "rope_theta": model.metadata.get(f"{model.architecture}.rope.freq_base"),
        "tie_word_embeddings": tied,
        "pad_token_id": None,
        "attn_implementation": "eager",
    }
    return common | _own_config(name, model)


def _own_config(name: str, model: Model) -> dict[str, Any]:
    said = model.metadata
    match name:
        case "mistral":
            return {"sliding_window": said["llama.attention.sliding_window"]}
        case "phi3":
            return {
                "sliding_window": said["phi3.attention.sliding_window"],
                "original_max_position_embeddings": model.shape.context,
            }
        case "phi3-long":
            floats = model.floats()
            return {
                "sliding_window": None,
                "original_max_position_embeddings": 32,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": floats["rope_factors_short.weight"].tolist(),
                    "long_factor": floats["rope_factors_long.weight"].tolist(),
                },
            }
        case "granite":
            return {
                "attention_multiplier": said["granite.attention.scale"],
                "embedding_multiplier": said["granite.embedding_scale"],
                "residual_multiplier": said["granite.residual_scale"],
                "logits_scaling": said["granite.logit_scale"],
            }
        case "gemma3":
            pattern = said["gemma3.attention.sliding_window_pattern"]
            return {
                "sliding_window": said["gemma3.attention.sliding_window"],
                "query_pre_attn_scalar": model.shape.head_size,
                "rope_local_base_freq": 10_000.0,
                "layer_types": [
                    "sliding_attention" if (index + 1) % pattern else "full_attention"
                    for index in range(model.shape.layers)
                ],
            }
    return {}


def _state(model: Model) -> dict[str, torch.Tensor]:
    """Weights under transformers' names."""
    state: dict[str, torch.Tensor] = {}
    names = _GEMMA_NAMES if model.architecture == "gemma3" else _LAYER_NAMES
    floats = model.floats()
    for name, values in floats.items():
        if name.startswith("rope_"):
            continue
        if name.startswith("blk."):
            _, index, own = name.split(".", 2)
            theirs = f"model.layers.{index}.{names[own]}"
        else:
            theirs = {
                "token_embd.weight": "model.embed_tokens.weight",
                "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight",
            }[name]
        state[theirs] = torch.from_numpy(_as_theirs(name, values, model).copy())
    if model.architecture == "phi3":
        _rename_fused(state)
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def _as_theirs(name: str, values: Floats, model: Model) -> Floats:
    if model.architecture == "gemma3" and "norm" in name:
        return values - 1
    if model.architecture in ("llama", "granite") and name.endswith(("_q.weight", "_k.weight")):
        heads = model.shape.heads if "_q." in name else model.shape.kv_heads
        rows = values.reshape(heads, model.shape.head_size // 2, 2, -1)
        return rows.swapaxes(1, 2).reshape(values.shape)
    return values


def _rename_fused(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.endswith("mlp.up_proj.weight")]:
        state[name.replace("up_proj", "gate_up_proj")] = state.pop(name)


def _logits(name: str, model: Model) -> Floats:
    """After each of `IDS`, `[len(IDS), vocabulary]`."""
    family = _CLASSES[name]
    text = "Text" if family == "Gemma3" else ""
    config = getattr(transformers, f"{family}{text}Config")(**_config(name, model))
    reference = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    state = _state(model)
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert not missing, missing
    if name == "llama":
        rotary = reference.model.rotary_emb
        rotary.inv_freq /= torch.from_numpy(model.floats()["rope_freqs.weight"].copy())
    with torch.no_grad():
        logits = reference(torch.tensor([IDS]), use_cache=False).logits[0]
    result: Floats = logits.numpy()
    return result


def main() -> None:
    torch.manual_seed(0)
    listed: dict[str, list[list[float]]] = {}
    for name, make in VARIANTS.items():
        logits = _logits(name, make())
        print(f"{name}: logits from {logits.min():.2f} to {logits.max():.2f}")  # noqa: T201
        listed[name] = [[float(f"{x:.6g}") for x in row] for row in logits[:, -LISTED:]]
    said: Mapping[str, Any] = {
        "transformers": transformers.__version__, "ids": IDS, "logits": listed,
    }  # fmt: skip
    _INTO.write_text(json.dumps(said, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
