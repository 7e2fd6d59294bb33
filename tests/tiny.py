"""Checkpoints of a few megabytes, whose decoders are random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import onnx

from tests import checkpoints
from tests.graphs import CONTEXT, HEAD_SIZE, HEADS, Plan, build

_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def put(directory: Path, plan: Plan) -> Path:
    """A checkpoint, but for a tokenizer: all that engines read."""
    directory.mkdir(parents=True)
    model = build(plan)
    onnx.save_model(
        model,
        str(directory / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=64,  # an empty tensor cannot be elsewhere
    )
    write_config(directory, config(plan))
    return directory


def put_with_tokenizer(directory: Path, plan: Plan, source: Path) -> Path:
    """A whole checkpoint, which speaks with the tokenizer of another; `plan.vocabulary` is that
    tokenizer's."""
    put(directory, plan)
    for name in _TOKENIZER:
        (directory / name).hardlink_to((source / name).resolve())
    said = json.loads((source / checkpoints.CONFIG).read_bytes())["model"]
    ours = config(plan)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ours["model"][key] = said[key]
    write_config(directory, ours)
    return directory


def write_config(directory: Path, content: dict[str, Any]) -> None:
    (directory / checkpoints.CONFIG).write_text(json.dumps(content))


def config(plan: Plan) -> dict[str, Any]:
    inputs = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    if plan.takes_positions:
        inputs["position_ids"] = "position_ids"
    return {
        "model": {
            "bos_token_id": 1,
            "context_length": CONTEXT,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": HEAD_SIZE,
                "hidden_size": plan.hidden,
                "inputs": inputs,
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": HEADS,
                "num_hidden_layers": plan.layers,
                "num_key_value_heads": plan.kv_heads,
            },
            "eos_token_id": 2,
            "pad_token_id": 2,
            "type": "llama",
            "vocab_size": plan.vocabulary,
        },
        "search": {
            "do_sample": False,
            "max_length": CONTEXT,
            "num_beams": 1,
            "past_present_share_buffer": plan.grouped,
            "top_k": 50,
        },
    }
