"""Llama, and Mistral, which calls itself so too; Granite, which is Llama with four scales.

Their files hold the rows of q and k in the order of Meta's checkpoints, which rotate neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.architectures.decoder import Decoder, Layer
from lemonade_serve.importers.architectures.keys import COMMON, ROPE_DIVISORS, Keys, plain
from lemonade_serve.importers.container import Metadata, Tensor

_EXPERTS: Final = frozenset({"expert_count", "expert_used_count"})
_LLAMA_KEYS: Final = COMMON | _EXPERTS | {"tensor_data_layout", "attention.sliding_window"}
_GRANITE_KEYS: Final = COMMON | _EXPERTS | {
    "attention.scale", "embedding_scale", "residual_scale", "logit_scale",
}  # fmt: skip


def llama(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    """Llama, or Mistral: a sliding window, where the file tells of one, is every layer's."""
    keys = Keys(metadata, "llama", _LLAMA_KEYS)
    decoder = _interleaved(keys, tensors)
    window = keys.window(decoder.context)
    layers = tuple(Layer(rope=layer.rope, window=window) for layer in decoder.layers)
    return replace(decoder, layers=layers)


def granite(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    """Granite 3 and the dense ones of 4: `logit_scale` divides, the others multiply."""
    keys = Keys(metadata, "granite", _GRANITE_KEYS)
    if not keys.flag("rope.scaling.finetuned", True):
        raise UnsupportedModel("granite without rotary positions is not supported")
    decoder = _interleaved(keys, tensors)
    return replace(
        decoder,
        attention_scale=keys.number("attention.scale", decoder.attention_scale),
        embedding_scale=keys.number("embedding_scale", 1.0),
        residual_scale=keys.number("residual_scale", 1.0),
        logit_scale=1 / keys.number("logit_scale"),
    )


def _interleaved(keys: Keys, tensors: Mapping[str, Tensor]) -> Decoder:
    keys.refuse_experts()
    decoder = plain(keys, tensors, rope=keys.rope(10_000.0))
    divisors = ROPE_DIVISORS if ROPE_DIVISORS in tensors else None
    return replace(decoder, interleaved=True, divisors=divisors)
