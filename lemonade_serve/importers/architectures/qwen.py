"""Qwen 2 and 2.5, which have biases, and Qwen 3, which has norms on q and k instead."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from lemonade_serve.importers.architectures.decoder import Decoder
from lemonade_serve.importers.architectures.keys import COMMON, Keys, plain
from lemonade_serve.importers.container import Metadata, Tensor


def qwen2(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    """Qwen 2, Qwen 2.5 and what was trained on from them."""
    keys = Keys(metadata, "qwen2", COMMON)
    return replace(plain(keys, tensors, rope=keys.rope(10_000.0)), biased=True)


def qwen3(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    """Qwen 3, the dense ones."""
    keys = Keys(metadata, "qwen3", COMMON)
    return replace(plain(keys, tensors, rope=keys.rope(10_000.0)), query_key_norm=True)
