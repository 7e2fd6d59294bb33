"""What goes where: the form of every matrix, and its place in `model.onnx.data`.

`auto` keeps what the file holds: Q4_0 in 4 bit, whole zeros in 8 bit, float minima in 8 bit with a
zero point. F32, F16 and BF16 matrices become 8 bit too: that is not lossless (0.5 % of the
weights' rms, a step of each block's largest value / 127), but below the error that
accuracy_level 4 makes on the other side of the product by rounding activations to int8, at a
quarter of the bytes and three times the speed of fp32, which stays on offer. The embedding and
lm_head are never below 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec
from gguf import GGMLQuantizationType as Type

from lemonade_serve.errors import InvalidRequest, UnsupportedModel
from lemonade_serve.importers.architectures.decoder import Decoder, Rope
from lemonade_serve.importers.blocks import Form
from lemonade_serve.importers.container import Container, Tensor
from lemonade_serve.importers.levels import FLOAT_MINIMUM, FOUR_BIT, block_size

DATA_ALIGNMENT: Final = 4096
"""Offsets in the data file: whole pages, so that ONNX Runtime can map each initialiser."""

Element = Literal["uint8", "float32"]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """An initialiser in the data file."""

    name: str
    element: Element
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` of a tensor from `first` on, which fill rows of a matrix, multiplied by `factor`.

    `heads` > 0 asks for rows un-permuted head by head.
    """

    tensor: Tensor
    first: int
    rows: int
    heads: int = 0
    factor: float = 1.0


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix `[rows, columns]`: tensors of one form, stacked."""

    name: str
    sources: tuple[Source, ...]
    form: Form
    block: int
    rows: int
    columns: int
    quants: Stored
    scales: Stored | None = None
    zeros: Stored | None = None
    correction: Stored | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The cosines and sines of one rope, `[context, head_size/2]` each."""

    rope: Rope
    cosines: Stored
    sines: Stored


class LayerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's matrices: q, k and v stacked in one, or three."""

    attention: tuple[Matrix, ...]
    output: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        """All of them."""
        return (*self.attention, self.output, self.gate, self.up, self.down)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the data file. With tied embeddings `head` is None: `embedding` is both."""

    dtype: str
    embedding: Matrix
    head: Matrix | None
    layers: tuple[LayerPlan, ...]
    tables: tuple[Table, ...]
    nbytes: int

    def matrices(self) -> Iterator[Matrix]:
        """Every matrix, in the order of the file."""
        yield self.embedding
        for layer in self.layers:
            yield from layer.matrices()
        if self.head is not None:
            yield self.head


def plan(decoder: Decoder, container: Container, dtype: str) -> Plan:
    """Choose forms and places.

    Errors: `InvalidRequest` for a dtype no GGUF can be had in, `UnsupportedModel` for one that
    this file cannot be had in; both list what can.
    """
    return _Planner(decoder, container, dtype).plan()


def layer_types(decoder: Decoder, container: Container) -> dict[Type, int]:
    """Weights of the layers' matrices by stored type."""
    counts: dict[Type, int] = {}
    for name, shape in decoder.shapes():
        if len(shape) == 2 and name.startswith("blk."):
            kind = container.tensors[name].type
            counts[kind] = counts.get(kind, 0) + shape[0] * shape[1]
    return counts


def resolve_dtype(dtype: str, types: dict[Type, int]) -> str:
    """What the layers' matrices will be: `fp32`, `int8` or `int4`."""
    total = sum(types.values())
    four = 2 * sum(types.get(kind, 0) for kind in FOUR_BIT) >= total
    auto = "int4" if 2 * types.get(Type.Q4_0, 0) >= total else "int8"
    choices = {"auto": auto, "fp32": "fp32", "int8": "int8"} | ({"int4": "int4"} if four else {})
    if dtype in choices:
        return choices[dtype]
    on_offer = ", ".join(sorted(choices))
    if dtype == "int4":
        kinds = ", ".join(kind.name for kind in sorted(types, key=lambda kind: -types[kind]))
        raise UnsupportedModel(
            f"int4 would re-quantise this file, whose matrices are mostly not 4 bit ({kinds}); "
            f"it can be had in: {on_offer}",
            param="dtype",
        )
    raise InvalidRequest(
        f"a GGUF file cannot be imported in {dtype!r}; this one can be had in: {on_offer}",
        param="dtype",
    )


class _Planner:
    """Hands out places in the data file, one after the other."""

    def __init__(self, decoder: Decoder, container: Container, dtype: str) -> None:
        self._decoder = decoder
        self._tensors = container.tensors
        self._resolved = resolve_dtype(dtype, layer_types(decoder, container))
        self._keep_four = dtype in ("auto", "int4")
        self._correct = dtype == "int4"
        self._end = 0

    def plan(self) -> Plan:
        embedding = self._matrix("embedding", self._source("token_embd"), keep_four=False)
        layers = tuple(self._layer(index) for index in range(len(self._decoder.layers)))
        head = None
        if not self._decoder.tied:
            head = self._matrix("lm_head", self._source("output"), keep_four=False)
        ropes = dict.fromkeys(layer.rope for layer in self._decoder.layers)
        tables = tuple(self._table(index, rope) for index, rope in enumerate(ropes))
        return Plan(
            dtype=self._resolved,
            embedding=embedding,
            head=head,
            layers=layers,
            tables=tables,
            nbytes=self._end,
        )

    def _layer(self, index: int) -> LayerPlan:
        decoder, prefix, name = self._decoder, f"blk.{index}", f"layers.{index}"
        output = self._source(f"{prefix}.attn_output", factor=decoder.residual_scale)
        gate, up = self._gate_and_up(prefix)
        down = self._source(f"{prefix}.ffn_down", factor=decoder.residual_scale)
        return LayerPlan(
            attention=self._attention(f"{name}.attention", self._query_key_value(prefix)),
            output=self._matrix(f"{name}.attention.output", output),
            gate=self._matrix(f"{name}.mlp.gate", gate),
            up=self._matrix(f"{name}.mlp.up", up),
            down=self._matrix(f"{name}.mlp.down", down),
        )

    def _query_key_value(self, prefix: str) -> tuple[Source, ...]:
        decoder = self._decoder
        scale = 1.0 if decoder.query_key_norm else decoder.attention_scale  # else the norm has it
        factors = (scale, 1.0, 1.0)
        if decoder.fused:
            return self._cut(f"{prefix}.attn_qkv", decoder.attention_rows, factors)
        permuted = (decoder.heads, decoder.kv_heads, 0) if decoder.interleaved else (0, 0, 0)
        return tuple(
            self._source(f"{prefix}.attn_{side}", heads=heads, factor=factor)
            for side, heads, factor in zip("qkv", permuted, factors, strict=True)
        )

    def _gate_and_up(self, prefix: str) -> tuple[Source, ...]:
        if self._decoder.fused:
            rows = self._decoder.feed_forward
            return self._cut(f"{prefix}.ffn_up", (rows, rows), (1.0, 1.0))
        return self._source(f"{prefix}.ffn_gate"), self._source(f"{prefix}.ffn_up")

    def _attention(self, name: str, sources: tuple[Source, ...]) -> tuple[Matrix, ...]:
        """One matrix where q, k and v have one form: a third of the calls."""
        kinds = {self._layout(source.tensor.type, keep_four=True) for source in sources}
        if len(kinds) == 1:
            return (self._matrix(f"{name}.qkv", *sources),)
        parts = zip("qkv", sources, strict=True)
        return tuple(self._matrix(f"{name}.{part}", source) for part, source in parts)

    def _source(self, name: str, heads: int = 0, factor: float = 1.0) -> Source:
        tensor = self._tensors[f"{name}.weight"]
        return Source(tensor=tensor, first=0, rows=tensor.rows, heads=heads, factor=factor)

    def _cut(
        self, name: str, rows: tuple[int, ...], factors: tuple[float, ...]
    ) -> tuple[Source, ...]:
        """One tensor's rows, cut in parts."""
        tensor = self._tensors[f"{name}.weight"]
        starts = (sum(rows[:part]) for part in range(len(rows)))
        return tuple(
            Source(tensor=tensor, first=first, rows=count, factor=factor)
            for first, count, factor in zip(starts, rows, factors, strict=True)
        )

    def _layout(self, kind: Type, *, keep_four: bool) -> tuple[Form, int]:
        return self._form(kind, keep_four=keep_four), block_size(kind)

    def _form(self, kind: Type, *, keep_four: bool) -> Form:
        if self._resolved == "fp32":
            return Form.FLOAT
        if keep_four and self._keep_four and kind is Type.Q4_0:
            return Form.FOUR
        if keep_four and self._correct and kind in FOUR_BIT:
            return Form.FOUR_CORRECTED
        return Form.EIGHT_ZERO if kind in FLOAT_MINIMUM else Form.EIGHT

    def _matrix(self, name: str, *sources: Source, keep_four: bool = True) -> Matrix:
        rows = sum(source.rows for source in sources)
        first = sources[0].tensor
        columns = first.shape[-1]
        form, block = self._layout(first.type, keep_four=keep_four)
        if form is Form.FLOAT:
            quants = self._place(f"{name}.weight", "float32", (rows, columns))
            return Matrix(name=name, sources=sources, form=form, block=block, rows=rows,
                          columns=columns, quants=quants)  # fmt: skip
        if columns % block:
            raise UnsupportedModel(f"{first.name!r} has rows of {columns}, no multiple of {block}")
        blocks = columns // block
        return Matrix(
            name=name,
            sources=sources,
            form=form,
            block=block,
            rows=rows,
            columns=columns,
            quants=self._place(f"{name}.quants", "uint8", (rows, blocks, block * form.bits // 8)),
            scales=self._place(f"{name}.scales", "float32", (rows, blocks)),
            zeros=self._place(f"{name}.zeros", "uint8", (rows, blocks))
            if form is Form.EIGHT_ZERO
            else None,
            correction=self._place(f"{name}.correction", "float32", (rows, blocks))
            if form is Form.FOUR_CORRECTED
            else None,
        )

    def _table(self, index: int, rope: Rope) -> Table:
        shape = (self._decoder.context, self._decoder.head_size // 2)
        return Table(
            rope=rope,
            cosines=self._place(f"rope.{index}.cosines", "float32", shape),
            sines=self._place(f"rope.{index}.sines", "float32", shape),
        )

    def _place(self, name: str, element: Element, shape: tuple[int, ...]) -> Stored:
        nbytes = 4 if element == "float32" else 1
        for length in shape:
            nbytes *= length
        offset = -(-self._end // DATA_ALIGNMENT) * DATA_ALIGNMENT
        self._end = offset + nbytes
        return Stored(name=name, element=element, shape=shape, offset=offset, nbytes=nbytes)
