"""Embeddings of encoders in 8 bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lemonade_serve.importers.rounding import round_embeddings

ROWS, WIDTH, BLOCK = 2048, 64, 32
TABLE = np.random.default_rng(3).normal(0, 0.05, (ROWS, WIDTH)).astype(np.float32)


def model(rows: int = ROWS, *, op: str = "Gather", axis: int = 0) -> onnx.ModelProto:
    """Looks up rows; or, with another operator, uses its table otherwise."""
    attributes = {"axis": axis} if op == "Gather" else {}
    order = ["table", "ids"] if op == "Gather" else ["ids", "table"]
    kind = TensorProto.INT64 if op == "Gather" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, order, ["out"], **attributes)],
        "lookup",
        [helper.make_tensor_value_info("ids", kind, [None, None])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(TABLE[:rows], "table")],
    )
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def test_rows_are_read_back_within_half_a_step_of_their_block() -> None:
    made = model()
    round_embeddings(made.graph, BLOCK)
    assert [node.op_type for node in made.graph.node] == ["GatherBlockQuantized"]
    stored = sum(len(tensor.raw_data) for tensor in made.graph.initializer)
    assert stored == TABLE.size + 4 * TABLE.size // BLOCK
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.arange(ROWS)[None]
    (out,) = session.run(None, {"ids": ids})
    steps = np.abs(TABLE.reshape(ROWS, -1, BLOCK)).max(axis=-1, keepdims=True) / 127
    errors = np.abs(out[0] - TABLE).reshape(ROWS, -1, BLOCK)
    assert (errors <= 0.5001 * steps).all()


@pytest.mark.parametrize(
    "kept", [model(1000), model(axis=1), model(op="MatMul")], ids=["few", "columns", "product"]
)
def test_what_is_no_large_embedding_stays(kept: onnx.ModelProto) -> None:
    before = kept.SerializeToString()
    round_embeddings(kept.graph, BLOCK)
    assert kept.SerializeToString() == before
