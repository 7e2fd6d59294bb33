"""A decoder as one value, from which the plan and the graph are made."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import msgspec


class Activation(Enum):
    """The gate's nonlinearity."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """A rotary table: angle = position / (`factor` · `base`^(2i / head_size)).

    Cosines and sines are multiplied by `magnitude`.
    """

    base: float
    factor: float = 1.0
    magnitude: float = 1.0


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between layers. `window`: positions attended to, itself included; None: all."""

    rope: Rope
    window: int | None = None


class Decoder(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder-only transformer with grouped-query attention and a gated MLP.

    `attention_scale` multiplies q·k, `embedding_scale` the embeddings, `residual_scale` what
    attention and MLP add, `logit_scale` the logits. `query_key_norm`: an RMS norm a head on q and
    k. `sandwich_norm`: norms also after attention and MLP, before the sum. `biased`: q, k and v
    have biases.

    Of the file: `interleaved`: q and k rows are ordered for rotation of neighbours. `fused`: q, k
    and v are one tensor, and so are gate and up. `divisors`: the tensor that divides the rotary
    frequencies. `unused`: tensors that may be there and are not needed, with their shapes.
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
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    activation: Activation = Activation.SILU
    query_key_norm: bool = False
    sandwich_norm: bool = False
    biased: bool = False
    interleaved: bool = False
    fused: bool = False
    tied: bool
    divisors: str | None = None
    unused: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def attention_rows(self) -> tuple[int, int, int]:
        """Rows of the matrices that make q, k and v."""
        keys = self.kv_heads * self.head_size
        return self.heads * self.head_size, keys, keys

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor the file must hold, with its shape (rows first)."""
        yield "token_embd.weight", (self.vocabulary, self.hidden)
        yield "output_norm.weight", (self.hidden,)
        if not self.tied:
            yield "output.weight", (self.vocabulary, self.hidden)
        if self.divisors is not None:
            yield self.divisors, (self.head_size // 2,)
        for index in range(len(self.layers)):
            for name, shape in self._layer_shapes():
                yield f"blk.{index}.{name}", shape

    def _layer_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "attn_norm.weight", (self.hidden,)
        yield from self._attention_shapes()
        yield "attn_output.weight", (self.hidden, self.heads * self.head_size)
        yield "ffn_norm.weight", (self.hidden,)
        if self.fused:
            yield "ffn_up.weight", (2 * self.feed_forward, self.hidden)
        else:
            yield "ffn_gate.weight", (self.feed_forward, self.hidden)
            yield "ffn_up.weight", (self.feed_forward, self.hidden)
        yield "ffn_down.weight", (self.hidden, self.feed_forward)
        if self.query_key_norm:
            yield "attn_q_norm.weight", (self.head_size,)
            yield "attn_k_norm.weight", (self.head_size,)
        if self.sandwich_norm:
            yield "post_attention_norm.weight", (self.hidden,)
            yield "post_ffw_norm.weight", (self.hidden,)

    def _attention_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.fused:
            yield "attn_qkv.weight", (sum(self.attention_rows), self.hidden)
            return
        for side, rows in zip("qkv", self.attention_rows, strict=True):
            yield f"attn_{side}.weight", (rows, self.hidden)
            if self.biased:
                yield f"attn_{side}.bias", (rows,)
