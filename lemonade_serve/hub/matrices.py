"""What an ONNX file says of itself, without its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lemonade_serve.errors import ModelLoadError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

_STORED = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8"}
"""By the numbers of onnx.TensorProto.DataType."""

_EXTERNAL = 1  # onnx.TensorProto.DataLocation

_WEIGHT = {
    "MatMul": 1,
    "Gemm": 1,
    "Attention": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QAttention": 1,
    "QGemm": 3,
    "QLinearMatMul": 3,
}
"""Where among the inputs of an operator that multiplies its matrix is."""

_BLOCKS = frozenset({"MatMulBnb4", "MatMulNBits"})
"""Operators whose matrix is in blocks of a few bits each."""

_UNPACKING = frozenset({"Cast", "DequantizeLinear", "Identity", "Mul", "Sub", "Transpose"})
"""What may lie between a matrix as it is stored and as it is used; the first input counts."""


def stored_dtype(model: Path) -> str:
    """The dtype of most elements that the graph multiplies with; its weights are not read.

    Raises ModelLoadError for a file that is not ONNX.
    """
    return dtype_of(read_graph(model), model)


def read_graph(model: Path) -> GraphProto:
    """Raises ModelLoadError for a file that is not ONNX."""
    import onnx  # heavy, and not needed for checkpoints of our own making

    try:
        return onnx.load(str(model), load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is not a public name
        raise ModelLoadError(f"{model} is not an ONNX file: {error}") from error


def dtype_of(graph: GraphProto, model: Path) -> str:
    """As `stored_dtype`; `model` is where the graph was read from."""
    try:
        elements = _elements(graph)
    except (KeyError, IndexError) as error:
        raise ModelLoadError(f"{model} has a matrix product without its {error}") from error
    return elements.most_common(1)[0][0] if elements else "fp32"


def outside(graph: GraphProto) -> frozenset[str]:
    """The files that have weights of the graph, by their paths from where it is."""
    tensors = [
        *graph.initializer,
        *(a.t for node in graph.node for a in node.attribute if a.HasField("t")),
    ]
    return frozenset(
        entry.value
        for tensor in tensors
        if tensor.data_location == _EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )


def _elements(graph: GraphProto) -> Counter[str]:
    """How many matrix elements there are in each dtype."""
    stored = {t.name: t for t in graph.initializer if t.data_type in _STORED and len(t.dims) == 2}
    unpacked = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in _UNPACKING and node.input
    }
    elements: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in _BLOCKS:
            attributes = {a.name: a.i for a in node.attribute}
            elements[f"int{attributes.get('bits', 4)}"] += attributes["K"] * attributes["N"]
        elif weight := _source(_weight(node), stored, unpacked):
            elements[_STORED[weight.data_type]] += weight.dims[0] * weight.dims[1]
    return elements


def _weight(node: NodeProto) -> str:
    """The name of what the node multiplies with; empty, if it does not."""
    place = _WEIGHT.get(node.op_type)
    return "" if place is None else node.input[place]


def _source(
    name: str, stored: dict[str, TensorProto], unpacked: dict[str, str]
) -> TensorProto | None:
    """The matrix that a value is made of, if it is one."""
    while name not in stored and name in unpacked:
        name = unpacked[name]
    return stored.get(name)
