"""One tiny model of each architecture that is imported, in F32, with sizes as odd as they come.

Their weights come out of a seeded generator; tests/data/architectures.json holds what transformers
computes from them (`tests/unit/importers/write_reference.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.unit.importers.files import Model, Shape

IDS: Final = [3, 17, 42, 99, 5, 7, 200, 13, 14, 15, 16, 250, 77, 180, 33, 8, 91, 120, 64, 21]
"""Twenty tokens: longer than every sliding window here."""

LISTED: Final = 64
"""Logits that the reference lists for each position: those of the last tokens."""


def _llama() -> Model:
    shape = Shape(hidden=96, feed_forward=160, heads=3, kv_heads=1, head_size=32, layers=3)
    model = Model("llama", Type.F32, tied=False, shape=shape)
    divisors = np.linspace(1.0, 8.0, 16, dtype=np.float32)
    model.tensors["rope_freqs.weight"] = (Type.F32, (16,), divisors.view(np.uint8))
    return model


def _mistral() -> Model:
    """Heads that are wider than their share, as Nemo's, and a window, as the first Mistral's."""
    shape = Shape(hidden=96, feed_forward=160, heads=6, kv_heads=2, head_size=32, layers=3)
    model = Model("llama", Type.F32, tied=False, shape=shape)
    model.metadata |= {"llama.attention.sliding_window": 7, "llama.rope.freq_base": 1e6}
    return model


def _qwen2() -> Model:
    shape = Shape(hidden=112, feed_forward=192, heads=7, kv_heads=1, head_size=16, layers=3)
    return Model("qwen2", Type.F32, tied=False, shape=shape)


def _qwen3() -> Model:
    shape = Shape(hidden=96, feed_forward=160, heads=5, kv_heads=1, head_size=32, layers=3)
    return Model("qwen3", Type.F32, tied=False, shape=shape)


def _phi3() -> Model:
    shape = Shape(hidden=96, feed_forward=160, heads=3, kv_heads=3, head_size=32, layers=3)
    return Model("phi3", Type.F32, tied=False, shape=shape)


def _phi3_long() -> Model:
    """A context of 64, of which 32 are without scaling."""
    shape = Shape(hidden=128, feed_forward=160, heads=8, kv_heads=2, head_size=16, layers=3)
    model = Model("phi3", Type.F32, tied=False, shape=shape)
    model.metadata |= {
        "phi3.rope.scaling.original_context_length": 32,
        "phi3.rope.scaling.attn_factor": float(np.sqrt(1 + np.log(2) / np.log(32))),
        "phi3.attention.sliding_window": 0,
    }
    for name, last in (("short", 1.6), ("long", 20.0)):
        factors = np.linspace(1.0, last, 8, dtype=np.float32)
        model.tensors[f"rope_factors_{name}.weight"] = (Type.F32, (8,), factors.view(np.uint8))
    return model


def _granite() -> Model:
    shape = Shape(hidden=96, feed_forward=160, heads=3, kv_heads=1, head_size=32, layers=3)
    return Model("granite", Type.F32, tied=False, shape=shape)


def _gemma3() -> Model:
    shape = Shape(hidden=96, feed_forward=160, heads=3, kv_heads=1, head_size=48, layers=3)
    return Model("gemma3", Type.F32, tied=True, shape=shape)


VARIANTS: Final[Mapping[str, Callable[[], Model]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "phi3-long": _phi3_long,
    "granite": _granite,
    "gemma3": _gemma3,
}
