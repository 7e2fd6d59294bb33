"""What the matrices of an ONNX file are stored in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lemonade_serve.errors import ModelLoadError

if TYPE_CHECKING:
    from onnx import GraphProto

_FLOATS = {1: "fp32", 10: "fp16", 16: "bf16"}
"""By the numbers of onnx.TensorProto.DataType."""


def stored_dtype(model: Path) -> str:
    """The dtype of most elements that the graph multiplies with; its weights are not read.

    Raises OSError, and ModelLoadError for a file that is not ONNX.
    """
    import onnx  # heavy, and not needed for checkpoints of our own making

    try:
        graph = onnx.load(str(model), load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is not a public name
        raise ModelLoadError(f"{model} is not an ONNX file: {error}") from error
    try:
        elements = _elements(graph)
    except (KeyError, IndexError) as error:
        raise ModelLoadError(f"{model} has a matrix product without its {error}") from error
    return elements.most_common(1)[0][0] if elements else "fp32"


def _elements(graph: GraphProto) -> Counter[str]:
    """How many matrix elements there are in each dtype."""
    floats = {t.name: t for t in graph.initializer if t.data_type in _FLOATS and len(t.dims) == 2}
    elements: Counter[str] = Counter()
    for node in graph.node:
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "MatMulNBits":
            elements[f"int{attributes.get('bits', 4)}"] += attributes["K"] * attributes["N"]
        elif node.op_type in ("MatMul", "Gemm") and node.input[1] in floats:
            weight = floats[node.input[1]]
            elements[_FLOATS[weight.data_type]] += weight.dims[0] * weight.dims[1]
    return elements
