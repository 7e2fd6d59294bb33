"""Phi 3 and 3.5: q, k and v in one tensor, gate and up in another.

The ones with a long context have two sets of rotary frequencies, and which of them is right depends
on how long the text will be. A graph has one: the set for texts of up to the original context, to
which the checkpoint is held, and in which it computes what the model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.architectures.decoder import Decoder, Layer
from lemonade_serve.importers.architectures.keys import COMMON, Keys, plain
from lemonade_serve.importers.container import Metadata, Tensor

_KEYS: Final = COMMON | {"attention.sliding_window", "rope.scaling.attn_factor"}
_SHORT: Final = "rope_factors_short.weight"
_LONG: Final = "rope_factors_long.weight"


def phi3(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    """The sliding window is every layer's, as transformers has it; llama.cpp leaves it out."""
    keys = Keys(metadata, "phi3", _KEYS)
    scaled = _SHORT in tensors or _LONG in tensors
    rope = keys.rope(10_000.0, scalings=("none", "longrope") if scaled else ("none", "linear"))
    decoder = replace(plain(keys, tensors, rope=rope), fused=True)
    if scaled:
        decoder = _short(keys, decoder)
    rope = replace(rope, magnitude=keys.number("rope.scaling.attn_factor", 1.0))
    layer = Layer(rope=rope, window=keys.window(decoder.context))
    return replace(decoder, layers=(layer,) * len(decoder.layers))


def _short(keys: Keys, decoder: Decoder) -> Decoder:
    original = keys.size("rope.scaling.original_context_length")
    if original < decoder.context and "rope.scaling.attn_factor" not in keys:
        raise UnsupportedModel("GGUF metadata phi3.rope.scaling.attn_factor is missing")
    return replace(
        decoder,
        context=min(decoder.context, original),
        divisors=_SHORT,
        unused=((_LONG, (decoder.head_size // 2,)),),
    )
