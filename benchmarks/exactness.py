"""Whether the model builder's graphs are the models that transformers runs, by architecture.

    export/bin/python -m benchmarks.exactness CHECKPOINT [--only llama ...]

Run by an environment with the extra `export` (docs/convert.md). CHECKPOINT is any whose tokenizer
may be used. Tiny models with random weights are converted to fp32, where nothing is rounded: what
differs then is the graph. Prints a table, or JSON with `--json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COMMON = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
}
_WIDE = {"head_dim": 32}
_APART = {"tie_word_embeddings": False}
_GEMMA = {**_WIDE, "sliding_window": 64, "query_pre_attn_scalar": 32}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 256,
}
_MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, bfloat16": ("Llama", {"dtype": "bfloat16"}),
    "llama, llama3 rope": ("Llama", {"rope_parameters": _LLAMA3}),
    "mistral": ("Mistral", {**_APART, **_WIDE, "sliding_window": None}),
    "mistral, window": ("Mistral", {**_APART, **_WIDE, "sliding_window": 64}),
    "qwen2": ("Qwen2", {}),
    "qwen2, window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", _WIDE),
    "phi3": ("Phi3", {**_APART, "original_max_position_embeddings": 1024}),
    "phi3, window": (
        "Phi3",
        {**_APART, "original_max_position_embeddings": 1024, "sliding_window": 64},
    ),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
        },
    ),
    "gemma": ("Gemma", _WIDE),
    "gemma2": ("Gemma2", _GEMMA),
    "gemma3": ("Gemma3Text", {**_GEMMA, "num_hidden_layers": 7}),
    "smollm3": ("SmolLM3", {}),
    "phi": ("Phi", {**_APART, "num_attention_heads": 2}),
    "nemotron": ("Nemotron", {**_APART, **_WIDE}),
    "ernie4_5": ("Ernie4_5", _WIDE),
    "hunyuan": ("HunYuanDenseV1", _WIDE),
    "olmo": ("Olmo", {}),
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_model(directory: Path, kind: str, settings: Mapping[str, Any], tokenizer: Path) -> None:
    """A source of so many random weights."""
    import torch
    import transformers

    said = {**_COMMON, **settings}
    dtype = getattr(torch, said.pop("dtype", "float32"))
    config = getattr(transformers, f"{kind}Config")(**said)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weights in model.parameters():
        if weights.ndim > 1:
            weights.data.normal_(0, 0.06)
    model.to(dtype).save_pretrained(directory)
    for name in _TOKENIZER:
        shutil.copyfile(tokenizer / name, directory / name)


def convert_one(directory: Path, into: Path) -> Mapping[str, Any]:
    """What its check found, or why there is none."""
    from lemonade_serve.errors import LemonadeError
    from lemonade_serve.importers.conversion import convert
    from lemonade_serve.protocol.jobs import ConvertModel, Recipe

    recipe = Recipe("fp32", "cpu", "default", 32)
    threads = len(os.sched_getaffinity(0))
    job = ConvertModel(str(directory), str(into), recipe, threads, 1 << 40, 0, 10.0)
    try:
        convert(job, lambda stage, done: None)
    except LemonadeError as error:
        return {"error": error.message}
    found = json.loads((into / "provenance.json").read_bytes())
    check: dict[str, Any] = found["conversion"]["check"]
    return check


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--only", nargs="+", default=list(_MODELS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as scratch:
            source, into = Path(scratch, "source"), Path(scratch, "into")
            source.mkdir()
            into.mkdir()
            write_model(source, *_MODELS[name], given.checkpoint)
            found[name] = convert_one(source, into)
        if not given.json:
            said = found[name].get("error") or f"{found[name]['agreement']:.1%}"
            print(f"{name:20} {said}", flush=True)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
