"""Gemma 3, its text decoder."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Final

from msgspec.structs import replace

from lemonade_serve.importers.architectures.decoder import Activation, Decoder, Layer, Rope
from lemonade_serve.importers.architectures.keys import COMMON, Keys, plain
from lemonade_serve.importers.container import Metadata, Tensor

_KEYS: Final = COMMON | {
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
}  # fmt: skip

_HEAD_SIZE: Final = 256
_PATTERN: Final = 6  # five local layers, then one global
_LOCAL_BASE: Final = 10_000.0
_27B_LAYERS: Final = 62


def gemma3(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    """The 27B model scales q·k by its width, all others by the head size (so llama.cpp too)."""
    keys = Keys(metadata, "gemma3", _KEYS)
    decoder = plain(keys, tensors, rope=keys.rope(1_000_000.0), head_size=_HEAD_SIZE)
    if len(decoder.layers) == _27B_LAYERS:
        decoder = replace(decoder, attention_scale=1 / sqrt(decoder.hidden // decoder.heads))
    return replace(
        decoder,
        genai_type="gemma3_text",
        layers=_layers(keys, decoder.layers),
        embedding_scale=sqrt(decoder.hidden),
        activation=Activation.GELU_TANH,
        query_key_norm=True,
        sandwich_norm=True,
    )


def _layers(keys: Keys, everywhere: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Every sixth layer sees everything. Files seldom say so, nor the local layers' theta."""
    pattern = keys.size("attention.sliding_window_pattern", _PATTERN)
    local = Layer(
        rope=Rope(base=keys.number("rope.freq_base_swa", _LOCAL_BASE)),
        window=keys.size("attention.sliding_window"),
    )
    return tuple(
        layer if (index + 1) % pattern == 0 else local for index, layer in enumerate(everywhere)
    )
