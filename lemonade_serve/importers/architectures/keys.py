"""The metadata under one architecture's prefix, and the decoder that all of them start from."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Final

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.architectures.decoder import Decoder, Layer, Rope
from lemonade_serve.importers.container import Metadata, Tensor

COMMON: Final = frozenset(
    {
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
        "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
        "rope.scaling.original_context_length", "rope.scaling.finetuned",
    }
)  # fmt: skip

ROPE_DIVISORS: Final = "rope_freqs.weight"

_HEAD_MULTIPLE: Final = 16  # GroupQueryAttention rotates no other
_LONGEST_CONTEXT: Final = 1 << 20  # the rotary tables hold every position


class Keys:
    """One architecture's metadata. An error names the key."""

    def __init__(self, metadata: Metadata, name: str, known: frozenset[str]) -> None:
        """Errors: `UnsupportedModel` for a key that is not `known`."""
        self._metadata = metadata
        self._prefix = f"{name}."
        self.architecture = name
        for key in metadata.keys(self._prefix):
            if key.removeprefix(self._prefix) not in known:
                raise UnsupportedModel(f"GGUF metadata {key} asks for something not supported")

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._metadata

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer that is one for all layers."""
        full = self._prefix + key
        if self._metadata.is_array(full):
            raise UnsupportedModel(f"GGUF metadata {full} differs by layer: not supported")
        return self._metadata.integer(full, default)

    def size(self, key: str, default: int | None = None) -> int:
        """An integer of at least 1."""
        value = self.integer(key, default)
        if value == 0:
            raise UnsupportedModel(f"GGUF metadata {self._prefix}{key} is 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        return self._metadata.number(self._prefix + key, default)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        return self._metadata.flag(self._prefix + key, default)

    def context(self) -> int:
        """The longest text, in tokens."""
        length = self.size("context_length")
        if length > _LONGEST_CONTEXT:
            raise UnsupportedModel(f"a context of {length} is more than {_LONGEST_CONTEXT}")
        return length

    def window(self, context: int) -> int | None:
        """The sliding window of every layer; None where there is none, or none that is felt."""
        window = self.integer("attention.sliding_window", 0)
        return window if 0 < window < context else None

    def rope(self, base: float, *, scalings: tuple[str, ...] = ("none", "linear")) -> Rope:
        """The rope, `base` where the file names none. The scalings but linear change nothing."""
        kind = self._metadata.text(self._prefix + "rope.scaling.type", "none")
        if kind not in scalings:
            raise UnsupportedModel(f"rope scaling {kind!r} is not supported")
        factor = self.number("rope.scaling.factor", 1.0) if kind == "linear" else 1.0
        return Rope(base=self.number("rope.freq_base", base), factor=factor)

    def head_size(self, heads: int, default: int) -> int:
        """Dimensions of a head; `default` where the file does not say."""
        size = self.size("attention.key_length", default)
        if self.integer("attention.value_length", size) != size:
            raise UnsupportedModel("attention with unequal key and value lengths is not supported")
        if size % _HEAD_MULTIPLE:
            raise UnsupportedModel(
                f"a head size of {size} is not supported: not a multiple of {_HEAD_MULTIPLE}"
            )
        if heads % self.size("attention.head_count_kv", heads):
            raise UnsupportedModel(f"{heads} heads do not divide by the number of key-value heads")
        return size

    def refuse_experts(self) -> None:
        """Errors: `UnsupportedModel` for a mixture of experts."""
        if self.integer("expert_count", 0) or self.integer("expert_used_count", 0):
            name = f"{self._prefix}expert_count"
            raise UnsupportedModel(f"mixture of experts ({name}) is not supported")


def plain(
    keys: Keys,
    tensors: Mapping[str, Tensor],
    *,
    rope: Rope,
    head_size: int | None = None,
) -> Decoder:
    """The decoder that the common metadata describe: as Llama's, whose rows are in plain order.

    A head is `head_size` where the file does not say, or its share of the width if that is None.
    """
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    size = keys.head_size(heads, head_size or hidden // heads)
    if keys.size("rope.dimension_count", size) != size:
        raise UnsupportedModel("rotation of a part of each head is not supported")
    count = keys.size("block_count")
    if count > len(tensors):
        raise UnsupportedModel(f"{count} layers, but only {len(tensors)} tensors")
    return Decoder(
        architecture=keys.architecture,
        genai_type=keys.architecture,
        layers=(Layer(rope=rope),) * count,
        vocabulary=_vocabulary(tensors),
        context=keys.context(),
        hidden=hidden,
        feed_forward=keys.size("feed_forward_length"),
        heads=heads,
        kv_heads=keys.size("attention.head_count_kv", heads),
        head_size=size,
        epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        attention_scale=1 / sqrt(size),
        tied="output.weight" not in tensors,
    )


def _vocabulary(tensors: Mapping[str, Tensor]) -> int:
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise UnsupportedModel("the tensor 'token_embd.weight' is missing")
    return embedding.rows
