"""A decoder's graph, as the batched engine must see it.

The engine lays sequences side by side as rows of one batch, keeps their keys and values in one
buffer that is past and present at once, and says by the attention mask how long each row is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lemonade_serve.worker.engines.mask import MaskUse

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

_ATTENTION: Final = "GroupQueryAttention"
_FLOATS: Final = {1: "float32", 10: "float16"}
"""By the numbers of onnx.TensorProto.DataType, as are the next two."""
_INT64: Final = 7
_GRAPH_ATTRIBUTES: Final = (5, 10)

# Places among GroupQueryAttention's inputs.
_PAST: Final = slice(3, 5)
_LAST: Final = 5
_WIDTH: Final = 6
_TABLES: Final = slice(7, 9)
_BIAS: Final = 10

_MIXING: Final = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul")
"""Operators that scale all rows of a batch by the largest number in any of them."""


class Decoder(msgspec.Struct, frozen=True, kw_only=True):
    """What the batched engine must know of a graph; names are of its inputs and outputs.

    Caches are `[rows, kv_heads, capacity, head_size]` of `cache_dtype`, one for each layer and
    side. Ids, mask and `position_ids` (where it has them: `[rows, tokens]`, counted from each
    row's first token) are int64. Logits are `[rows, tokens, vocabulary]` of `logits_dtype`, with
    one token only if `last_position_only`. A run of fewer than `least_rows` rows times tokens
    rounds differently than others do.
    """

    model: Path
    input_ids: str
    attention_mask: str
    position_ids: str | None
    logits: str
    past_keys: tuple[str, ...]
    past_values: tuple[str, ...]
    present_keys: tuple[str, ...]
    present_values: tuple[str, ...]
    kv_heads: int
    head_size: int
    cache_dtype: str
    logits_dtype: str
    last_position_only: bool
    vocabulary: int
    least_rows: int


class _Inputs(msgspec.Struct):
    """The defaults here and below are onnxruntime-genai's."""

    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    position_ids: str = "position_ids"
    past_key_names: str = "past_key_values.%d.key"
    past_value_names: str = "past_key_values.%d.value"


class _Outputs(msgspec.Struct):
    logits: str = "logits"
    present_key_names: str = "present.%d.key"
    present_value_names: str = "present.%d.value"


class DecoderConfig(msgspec.Struct):
    """`model.decoder` of `genai_config.json`."""

    filename: str = "model.onnx"
    head_size: int = 0
    num_hidden_layers: int = 0
    num_key_value_heads: int = 0
    inputs: _Inputs = msgspec.field(default_factory=_Inputs)
    outputs: _Outputs = msgspec.field(default_factory=_Outputs)
    pipeline: Any = None
    sliding_window: Any = None

    @property
    def token_bytes(self) -> int:
        """What a token takes of a KV cache in float32."""
        return 4 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_size


class Unfit(Exception):
    """Why the batched engine cannot take a graph, as a clause for people."""


class DecoderGraph:
    """The graph in the file `path`, whose weights need not be loaded."""

    def __init__(self, path: Path, model: ModelProto, config: DecoderConfig) -> None:
        self._path = path
        self._model = model
        self._config = config
        layers = range(config.num_hidden_layers)
        self._past_keys = _numbered(config.inputs.past_key_names, layers)
        self._past_values = _numbered(config.inputs.past_value_names, layers)
        self._present_keys = _numbered(config.outputs.present_key_names, layers)
        self._present_values = _numbered(config.outputs.present_value_names, layers)
        graph = model.graph
        self._stored = {tensor.name for tensor in graph.initializer}
        self._inputs: dict[str, ValueInfoProto] = {
            value.name: value for value in graph.input if value.name not in self._stored
        }
        self._outputs: dict[str, ValueInfoProto] = {value.name: value for value in graph.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)

    def decoder(self) -> Decoder:
        """What there is to know of it. Raises Unfit, and ModelLoadError as MaskUse does."""
        inputs, outputs = self._config.inputs, self._config.outputs
        attentions = self._attentions()
        self._require_no_adapters()
        self._require_independent_rows()
        positions = self._positions()
        self._require_inputs(positions)
        self._require_caches(attentions)
        self._require_fixed_tables(attentions)
        kv_heads, head_size, cache_dtype = self._geometry(attentions)
        logits = self._output(outputs.logits)
        _, tokens, vocabulary = self._logits_shape(logits)
        self._require_row_lengths(attentions)
        return Decoder(
            model=self._path,
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            position_ids=positions,
            logits=outputs.logits,
            past_keys=self._past_keys,
            past_values=self._past_values,
            present_keys=self._present_keys,
            present_values=self._present_values,
            kv_heads=kv_heads,
            head_size=head_size,
            cache_dtype=cache_dtype,
            logits_dtype=_float(logits, "its logits are"),
            last_position_only=tokens == 1,
            vocabulary=vocabulary,
            least_rows=self._least_rows(),
        )

    def _attentions(self) -> list[NodeProto]:
        found = [node for node in self._model.graph.node if node.op_type.endswith("Attention")]
        for node in found:
            if (node.domain, node.op_type) != ("com.microsoft", _ATTENTION):
                raise Unfit(f"its attention is {node.op_type}")
            if len(node.input) <= _WIDTH:
                raise Unfit(f"its {_ATTENTION} is not told how long rows are")
        if not found:
            raise Unfit(f"it has no {_ATTENTION}")
        return found

    def _require_no_adapters(self) -> None:
        """Whose matrices are inputs that are stored too, empty or of no fixed shape."""
        empty = {tensor.name for tensor in self._model.graph.initializer if 0 in tensor.dims}
        for value in self._model.graph.input:
            if value.name in empty or (value.name in self._stored and 0 in _shape(value)):
                raise Unfit(f"adapters may give its {value.name}")

    def _require_independent_rows(self) -> None:
        """What one row computes must not depend on how long or how large the others are."""
        for node in self._model.graph.node:
            if any(attribute.type in _GRAPH_ATTRIBUTES for attribute in node.attribute):
                raise Unfit(f"its graph branches on what a whole batch is like ({node.op_type})")
            if node.op_type in _MIXING:
                raise Unfit(f"{node.op_type} rounds the rows of a batch together")

    def _positions(self) -> str | None:
        """The input that has position ids. Only rotations may read it: some graphs choose their
        tables by the largest of them."""
        name = self._config.inputs.position_ids
        if name not in self._inputs:
            return None
        for node in self._readers[name]:
            if (node.op_type, list(node.input).index(name)) != ("RotaryEmbedding", 1):
                raise Unfit(f"{node.op_type} reads its position ids")
        if len(_shape(self._inputs[name])) != 2:
            raise Unfit("its position ids are not one number a token")
        return name

    def _require_inputs(self, positions: str | None) -> None:
        names = self._config.inputs
        integers = [names.input_ids, names.attention_mask, *([positions] if positions else [])]
        expected = [*integers, *self._past_keys, *self._past_values]
        if missing := [name for name in expected if name not in self._inputs]:
            raise Unfit(f"it has no input {missing[0]}")
        if more := self._inputs.keys() - set(expected):
            raise Unfit(f"it has the input {min(more)}")
        for name in integers:
            if self._inputs[name].type.tensor_type.elem_type != _INT64:
                raise Unfit(f"its {name} is not int64")

    def _require_caches(self, attentions: list[NodeProto]) -> None:
        """Past and present are one buffer only if a layer's attention is all that touches it."""
        layers = list(self._layers())
        wired = [(tuple(node.input[_PAST]), tuple(node.output[1:3])) for node in attentions]
        for past, present in layers:
            readers = [node for name in past + present for node in self._readers[name]]
            if (past, present) not in wired or len(readers) != len(past):
                raise Unfit(f"its {past[0]} does not go straight through a {_ATTENTION}")
        if len(attentions) != len(layers):
            raise Unfit(f"it has {len(attentions)} attentions and {len(layers)} caches")

    def _layers(self) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
        """The names of each layer's past and present."""
        return zip(
            zip(self._past_keys, self._past_values, strict=True),
            zip(self._present_keys, self._present_values, strict=True),
            strict=True,
        )

    def _require_fixed_tables(self, attentions: list[NodeProto]) -> None:
        tables = [name for node in attentions for name in node.input[_TABLES]]
        for node in self._model.graph.node:
            if node.op_type == "RotaryEmbedding":
                tables += node.input[2:4]
        if any(name and name not in self._stored for name in tables):
            raise Unfit("its rotary tables are computed")
        if any(node.input[_BIAS : _BIAS + 1] not in ([], [""]) for node in attentions):
            raise Unfit("its attention has a bias")
        if any(_attribute(node, "sliding_window_cache", 0) for node in attentions):
            raise Unfit("its cache slides along with a window")

    def _geometry(self, attentions: list[NodeProto]) -> tuple[int, int, str]:
        """Heads, head size and dtype of all caches. Builders leave the head size to the
        configuration where a cache may be packed."""
        heads = {_attribute(node, "kv_num_heads", 0) for node in attentions}
        names = [name for layer in self._layers() for pair in layer for name in pair]
        caches = [
            self._inputs[name] if name in self._inputs else self._output(name) for name in names
        ]
        dtypes = {_float(cache, "its cache is") for cache in caches}
        shapes = {tuple(_shape(cache)) for cache in caches}
        if any(len(shape) != 4 or shape[1] not in (0, *heads) for shape in shapes):
            raise Unfit("its cache is not laid out by heads")
        sizes = {shape[3] or self._config.head_size for shape in shapes}
        if len(heads) > 1 or len(sizes) > 1 or len(dtypes) > 1:
            raise Unfit("its layers have caches of different kinds")
        if 0 in sizes:
            raise Unfit("it does not say how large its heads are")
        return heads.pop(), sizes.pop(), dtypes.pop()

    def _require_row_lengths(self, attentions: list[NodeProto]) -> None:
        use = MaskUse(
            self._model,
            self._path,
            self._config.inputs.attention_mask,
            lasts={node.input[_LAST] for node in attentions},
            widths={node.input[_WIDTH] for node in attentions},
        )
        if fault := use.fault():
            raise Unfit(fault)

    def _logits_shape(self, logits: ValueInfoProto) -> list[int]:
        shape = _shape(logits)
        if len(shape) != 3:
            raise Unfit(f"its logits have {len(shape)} dimensions")
        if not shape[2]:
            raise Unfit("it does not say how large its vocabulary is")
        return shape

    def _least_rows(self) -> int:
        """ONNX Runtime has a kernel of its own for one row of a block-quantised product, unless
        activations are quantised too (accuracy level 4)."""
        products = [node for node in self._model.graph.node if node.op_type == "MatMulNBits"]
        return 2 if any(_attribute(node, "accuracy_level", 0) != 4 for node in products) else 1

    def _output(self, name: str) -> ValueInfoProto:
        found = self._outputs.get(name)
        if found is None:
            raise Unfit(f"it has no output {name}")
        return found


def _numbered(pattern: str, layers: range) -> tuple[str, ...]:
    return tuple(pattern.replace("%d", str(layer)) for layer in layers)


def _shape(value: ValueInfoProto) -> list[int]:
    """0 for what is not fixed."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _float(value: ValueInfoProto, what: str) -> str:
    import onnx

    number = value.type.tensor_type.elem_type
    if number not in _FLOATS:
        raise Unfit(f"{what} {onnx.TensorProto.DataType.Name(number).lower()}")
    return _FLOATS[number]


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
