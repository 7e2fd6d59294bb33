"""What a GGUF file says its decoder is, as one value that the graph is built from.

Only what is known to be converted faithfully is let through: an unknown metadata key under the
architecture's prefix, or a tensor that nothing asks for, is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from math import sqrt
from typing import Final

import msgspec

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.container import Container, Metadata, Tensor
from lemonade_serve.importers.levels import FLOAT_TYPES, SUPPORTED


class Activation(Enum):
    """The gate's nonlinearity."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """A rotary table: angle = position / (`factor` · `base`^(2i / head_size))."""

    base: float
    factor: float = 1.0


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between layers. `window`: positions attended to, itself included; None: all."""

    rope: Rope
    window: int | None = None


class Decoder(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder-only transformer with grouped-query attention and a gated MLP.

    `attention_scale` multiplies q·k; `embedding_scale` the embeddings. `query_key_norm`: an RMS
    norm a head on q and k. `sandwich_norm`: norms also after attention and MLP, before the sum.
    `interleaved`: the file's q and k rows are ordered for rotation of neighbours. `frequencies`:
    the file has `rope_freqs.weight`, divisors of the rotary frequencies (Llama 3).
    """

    architecture: str
    genai_type: str
    layers: tuple[Layer, ...]
    vocabulary: int
    context: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    attention_scale: float
    embedding_scale: float
    activation: Activation
    query_key_norm: bool
    sandwich_norm: bool
    interleaved: bool
    tied: bool
    frequencies: bool

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor the file must hold, with its shape (rows first)."""
        yield "token_embd.weight", (self.vocabulary, self.hidden)
        yield "output_norm.weight", (self.hidden,)
        if not self.tied:
            yield "output.weight", (self.vocabulary, self.hidden)
        if self.frequencies:
            yield "rope_freqs.weight", (self.head_size // 2,)
        for index in range(len(self.layers)):
            for name, shape in self._layer_shapes():
                yield f"blk.{index}.{name}.weight", shape

    def _layer_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        yield "attn_norm", (self.hidden,)
        yield "attn_q", (queries, self.hidden)
        yield "attn_k", (keys, self.hidden)
        yield "attn_v", (keys, self.hidden)
        yield "attn_output", (self.hidden, queries)
        yield "ffn_norm", (self.hidden,)
        yield "ffn_gate", (self.feed_forward, self.hidden)
        yield "ffn_up", (self.feed_forward, self.hidden)
        yield "ffn_down", (self.hidden, self.feed_forward)
        if self.query_key_norm:
            yield "attn_q_norm", (self.head_size,)
            yield "attn_k_norm", (self.head_size,)
        if self.sandwich_norm:
            yield "post_attention_norm", (self.hidden,)
            yield "post_ffw_norm", (self.hidden,)


def describe(container: Container) -> Decoder:
    """The decoder in the file.

    Errors: `UnsupportedModel` that names the architecture, key, tensor or type at fault.
    """
    metadata = container.metadata
    name = metadata.text("general.architecture")
    reader = _ARCHITECTURES.get(name)
    if reader is None:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise UnsupportedModel(f"the architecture {name!r} is not supported; supported: {known}")
    if metadata.integer("split.count", 1) > 1:
        raise UnsupportedModel("this is one part of a split GGUF file; merge the parts first")
    decoder = reader(metadata, container.tensors)
    _check_tensors(decoder, container.tensors)
    return decoder


_COMMON_KEYS: Final = frozenset(
    {
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
        "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
        "rope.scaling.original_context_length", "rope.scaling.finetuned",
    }
)  # fmt: skip
_LLAMA_KEYS: Final = _COMMON_KEYS | {"expert_count", "expert_used_count", "tensor_data_layout"}
_GEMMA3_KEYS: Final = _COMMON_KEYS | {
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
}  # fmt: skip

_LONGEST_CONTEXT: Final = 1 << 20  # the rotary tables hold every position

_GEMMA3_PATTERN: Final = 6  # five local layers, then one global
_GEMMA3_LOCAL_BASE: Final = 10_000.0
_GEMMA3_27B_LAYERS: Final = 62


class _Keys:
    """The metadata under one architecture's prefix."""

    def __init__(self, metadata: Metadata, name: str, known: frozenset[str]) -> None:
        self._metadata = metadata
        self._prefix = f"{name}."
        for key in metadata.keys(self._prefix):
            if key.removeprefix(self._prefix) not in known:
                raise UnsupportedModel(f"GGUF metadata {key} asks for something not supported")

    def integer(self, key: str, default: int | None = None) -> int:
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

    def context(self) -> int:
        length = self.size("context_length")
        if length > _LONGEST_CONTEXT:
            raise UnsupportedModel(f"a context of {length} is more than {_LONGEST_CONTEXT}")
        return length

    def number(self, key: str, default: float | None = None) -> float:
        return self._metadata.number(self._prefix + key, default)

    def rope_factor(self) -> float:
        """The factor of linear rope scaling, 1 without any."""
        kind = self._metadata.text(self._prefix + "rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise UnsupportedModel(f"rope scaling {kind!r} is not supported")
        return self.number("rope.scaling.factor", 1.0) if kind == "linear" else 1.0

    def head_size(self, heads: int, default: int) -> int:
        size = self.size("attention.key_length", default)
        if self.integer("attention.value_length", size) != size:
            raise UnsupportedModel("attention with unequal key and value lengths is not supported")
        if self.integer("rope.dimension_count", size) != size:
            raise UnsupportedModel("rotation of a part of each head is not supported")
        if size % 8:
            raise UnsupportedModel(f"a head size of {size} is not supported: not a multiple of 8")
        if heads % self.size("attention.head_count_kv", heads):
            raise UnsupportedModel(f"{heads} heads do not divide by the number of key-value heads")
        return size


def _llama(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    keys = _Keys(metadata, "llama", _LLAMA_KEYS)
    if keys.integer("expert_count", 0) or keys.integer("expert_used_count", 0):
        raise UnsupportedModel("mixture of experts (llama.expert_count) is not supported")
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    head_size = keys.head_size(heads, hidden // heads)
    rope = Rope(base=keys.number("rope.freq_base", 10_000.0), factor=keys.rope_factor())
    return Decoder(
        architecture="llama",
        genai_type="llama",
        layers=(Layer(rope=rope),) * _layers(keys, tensors),
        vocabulary=_vocabulary(tensors),
        context=keys.context(),
        hidden=hidden,
        feed_forward=keys.size("feed_forward_length"),
        heads=heads,
        kv_heads=keys.size("attention.head_count_kv", heads),
        head_size=head_size,
        epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        attention_scale=1 / sqrt(head_size),
        embedding_scale=1.0,
        activation=Activation.SILU,
        query_key_norm=False,
        sandwich_norm=False,
        interleaved=True,
        tied="output.weight" not in tensors,
        frequencies="rope_freqs.weight" in tensors,
    )


def _gemma3(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Decoder:
    keys = _Keys(metadata, "gemma3", _GEMMA3_KEYS)
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    head_size = keys.head_size(heads, 256)
    count = _layers(keys, tensors)
    # The 27B model scales by its width, all others by the head size (llama.cpp knows it so too).
    scaled_by = hidden // heads if count == _GEMMA3_27B_LAYERS else head_size
    return Decoder(
        architecture="gemma3",
        genai_type="gemma3_text",
        layers=_gemma3_layers(keys, count),
        vocabulary=_vocabulary(tensors),
        context=keys.context(),
        hidden=hidden,
        feed_forward=keys.size("feed_forward_length"),
        heads=heads,
        kv_heads=keys.size("attention.head_count_kv", heads),
        head_size=head_size,
        epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        attention_scale=1 / sqrt(scaled_by),
        embedding_scale=sqrt(hidden),
        activation=Activation.GELU_TANH,
        query_key_norm=True,
        sandwich_norm=True,
        interleaved=False,
        tied="output.weight" not in tensors,
        frequencies=False,
    )


def _gemma3_layers(keys: _Keys, count: int) -> tuple[Layer, ...]:
    """Every sixth layer sees everything. Files seldom say so, nor the local layers' theta."""
    pattern = keys.size("attention.sliding_window_pattern", _GEMMA3_PATTERN)
    local = Layer(
        rope=Rope(base=keys.number("rope.freq_base_swa", _GEMMA3_LOCAL_BASE)),
        window=keys.size("attention.sliding_window"),
    )
    rope = Rope(base=keys.number("rope.freq_base", 1_000_000.0), factor=keys.rope_factor())
    everywhere = Layer(rope=rope)
    return tuple(everywhere if (index + 1) % pattern == 0 else local for index in range(count))


_ARCHITECTURES: Final = {"llama": _llama, "gemma3": _gemma3}


def _layers(keys: _Keys, tensors: Mapping[str, Tensor]) -> int:
    count = keys.size("block_count")
    if count > len(tensors):
        raise UnsupportedModel(f"{count} layers, but only {len(tensors)} tensors")
    return count


def _vocabulary(tensors: Mapping[str, Tensor]) -> int:
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise UnsupportedModel("the tensor 'token_embd.weight' is missing")
    return embedding.rows


def _check_tensors(decoder: Decoder, tensors: Mapping[str, Tensor]) -> None:
    expected = dict(decoder.shapes())
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise UnsupportedModel(f"the tensor {name!r} is missing")
        if tensor.shape != shape:
            raise UnsupportedModel(
                f"the tensor {name!r} has the shape {list(tensor.shape)}, not {list(shape)}"
            )
        allowed = FLOAT_TYPES if len(shape) == 1 else SUPPORTED
        if tensor.type not in allowed:
            raise UnsupportedModel(f"{name!r} has the type {tensor.type.name}: not supported")
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise UnsupportedModel(f"unexpected tensors: {', '.join(map(repr, unexpected[:5]))}")
