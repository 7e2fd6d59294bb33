"""Graphs of encoders in fewer bits.

In 8 bits, the columns of matrices and the rows of embeddings are rounded in blocks (`MatMulNBits`,
`GatherBlockQuantized`). Activations are rounded row by row, so that no text's vector depends on
those beside it, as it would with `DynamicQuantizeLinear`, which is further off besides.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

_BITS: Final = 8
_ACCURACY_LEVEL: Final = 4  # activations in 8 bits too
_MICROSOFT: Final = "com.microsoft"
_FEWEST_ROWS: Final = 1024
"""An embedding of fewer is as small as it need be."""
_LARGEST_INSIDE: Final = 1 << 30
"""Bytes of weights within a graph's own file, which may be 2 GiB long."""


def rounded(graph: Path, into: Path, dtype: str, *, block_size: int) -> None:
    """Write the graph, which is in float32, in `dtype`: `fp32`, `fp16` or `int8`, then with a scale
    for `block_size` weights. Its inputs and outputs stay as they are."""
    match dtype:
        case "fp16":
            model = _halved(graph)
        case "int8":
            model = _in_blocks(onnx.load(str(graph)), block_size)
        case _:
            model = onnx.load(str(graph))
    into.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    outside = weights > _LARGEST_INSIDE
    onnx.save_model(
        model,
        str(into),
        save_as_external_data=outside,
        location=f"{into.name}_data" if outside else None,
    )


def _halved(graph: Path) -> ModelProto:
    """Shapes are inferred before weights outside of the graph are read: with them it may be larger
    than what can be inferred of."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.shape_inference.infer_shapes(onnx.load(str(graph), load_external_data=False))
    onnx.load_external_data_for_model(model, str(graph.parent))
    halved: ModelProto = convert_float_to_float16(
        model, keep_io_types=True, disable_shape_infer=True
    )
    return halved


def _in_blocks(model: ModelProto, block_size: int) -> ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=_BITS,
        block_size=block_size,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    made: ModelProto = quantizer.model.model
    round_embeddings(made.graph, block_size)
    return made


def round_embeddings(graph: GraphProto, block_size: int) -> None:
    """In place: large tables that rows are looked up in, and that nothing else reads, in 8 bits."""
    tables = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and tensor.dims[0] >= _FEWEST_ROWS
        and tensor.dims[1] % block_size == 0
    }
    for name, table in tables.items():
        readers = [node for node in graph.node if name in node.input]
        if not all(_looks_up(node, name) for node in readers):
            continue
        levels, scales = _levels(numpy_helper.to_array(table), block_size)
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(levels, f"{name}.levels"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
        for node in readers:
            node.CopyFrom(_lookup(node, name, block_size))


def _looks_up(node: NodeProto, table: str) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return bool(node.op_type == "Gather" and node.input[0] == table and axis == 0)


def _lookup(node: NodeProto, table: str, block_size: int) -> NodeProto:
    return helper.make_node(
        "GatherBlockQuantized",
        [f"{table}.levels", node.input[1], f"{table}.scales"],
        node.output,
        node.name,
        domain=_MICROSOFT,
        bits=_BITS,
        block_size=block_size,
        gather_axis=0,
        quantize_axis=1,
    )


def _levels(
    rows: npt.NDArray[Any], block_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Each block to 127 steps of its largest value, on both sides of 128."""
    blocks = rows.reshape(len(rows), -1, block_size)
    scales = (np.abs(blocks).max(axis=-1) / 127).astype(np.float32)
    steps = np.where(scales > 0, scales, 1)[..., None]
    levels = (np.rint(blocks / steps) + 128).astype(np.uint8)
    return levels.reshape(rows.shape), scales
