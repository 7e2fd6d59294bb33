"""What a graph computes of its attention mask, and what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lemonade_serve.errors import ModelLoadError
from lemonade_serve.worker.engines.mask import MaskUse

STORED = {
    "one": np.array(1, np.int64),
    "axis": np.array([1], np.int64),
    "zero": np.array(0, np.int64),
    "lowest": np.array([[-1]], np.int64),
}


def node(operator: str, inputs: str, output: str, **attributes: int) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


LAST = [
    node("ReduceSum", "mask axis", "counts", keepdims=0),
    node("Sub", "counts one", "last"),
    node("Cast", "last", "lasts", to=TensorProto.INT32),
]
WIDTH = [
    node("Shape", "mask", "shape"),
    node("Gather", "shape one", "width_64"),
    node("Cast", "width_64", "width", to=TensorProto.INT32),
]


def model(*nodes: NodeProto) -> ModelProto:
    """Attention, and what it is told."""
    inputs = ["q", "k", "v", "past_key", "past_value", "lasts", "width"]
    attention = helper.make_node("GroupQueryAttention", inputs, ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [*nodes, attention],
        "decoder",
        [],
        [],
        [numpy_helper.from_array(values, name) for name, values in STORED.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def fault(*nodes: NodeProto) -> str | None:
    use = MaskUse(model(*nodes), Path("model.onnx"), "mask", lasts={"lasts"}, widths={"width"})
    return use.fault()


def test_lengths_may_be_summed_and_the_width_measured() -> None:
    assert fault(*LAST, *WIDTH) is None


@pytest.mark.parametrize(
    "last",
    [
        # The last place that is not masked: the largest of its running sum.
        [
            node("CumSum", "mask one", "running"),
            node("ReduceMax", "running axis", "counts", keepdims=0),
            *LAST[1:],
        ],
        # A column, and not a row, as attention takes them too.
        [node("ReduceSum", "mask axis", "counts", keepdims=1), *LAST[1:]],
        # In the mask's own dtype to begin with.
        [
            node("Cast", "mask", "mask_32", to=TensorProto.INT32),
            node("ReduceSum", "mask_32 axis", "counts", keepdims=0),
            node("Cast", "one", "one_32", to=TensorProto.INT32),
            node("Sub", "counts one_32", "lasts"),
        ],
    ],
)
def test_it_does_not_matter_how_they_are_computed(last: list[NodeProto]) -> None:
    assert fault(*last, *WIDTH) is None


@pytest.mark.parametrize(
    "nodes",
    [
        # The length of a row, and not its last place.
        [LAST[0], node("Cast", "counts", "lasts", to=TensorProto.INT32), *WIDTH],
        # Every row as long as the longest.
        [
            *LAST[:2],
            node("ReduceMax", "last zero_axis", "longest", keepdims=1),
            node("Shape", "last", "rows"),
            node("Expand", "longest rows", "all"),
            node("Cast", "all", "lasts", to=TensorProto.INT32),
            *WIDTH,
        ],
        # The number of rows for the width.
        [*LAST, WIDTH[0], node("Gather", "shape zero", "width_64"), WIDTH[2]],
    ],
)
def test_what_they_come_to_is_what_counts(nodes: list[NodeProto]) -> None:
    axis = helper.make_node(
        "Constant", [], ["zero_axis"], value=numpy_helper.from_array(np.array([0]))
    )
    assert fault(axis, *nodes) == "the lengths of its rows are not those of its attention mask"


def test_lengths_depend_on_nothing_else() -> None:
    nodes = [*LAST, node("Shape", "past_key", "shape"), *WIDTH[1:]]
    assert fault(*nodes) == "the lengths of its rows depend on past_key"


def test_nothing_else_reads_the_mask() -> None:
    positions = node("CumSum", "mask one", "positions")
    assert fault(*LAST, *WIDTH, positions) == "CumSum reads its attention mask"


def test_nothing_else_reads_what_comes_of_the_mask() -> None:
    more = node("Greater", "width one", "is_long")
    assert fault(*LAST, *WIDTH, more) == "Greater reads its attention mask"


def test_attention_reads_it_as_lengths_only() -> None:
    crooked = model(*LAST, *WIDTH)
    crooked.graph.node[-1].input[0] = "lasts"
    use = MaskUse(crooked, Path("model.onnx"), "mask", lasts={"lasts"}, widths={"width"})
    assert use.fault() == "GroupQueryAttention reads its attention mask"


def test_constants_may_serve_others_too() -> None:
    assert fault(*LAST, *WIDTH, node("Add", "one one", "two")) is None


def test_constants_may_lie_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model(*LAST, *WIDTH),
        str(path),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    read = onnx.load(str(path), load_external_data=False)
    assert MaskUse(read, path, "mask", lasts={"lasts"}, widths={"width"}).fault() is None


def test_nodes_that_do_not_run_are_a_load_error() -> None:
    with pytest.raises(ModelLoadError, match=r"model\.onnx"):
        fault(*LAST, WIDTH[0], node("Nothing", "shape", "width"))


def test_the_width_may_be_the_longest_rows() -> None:
    longest = [
        node("ReduceMax", "counts", "longest", keepdims=0),
        node("Cast", "longest", "width", to=TensorProto.INT32),
    ]
    assert fault(*LAST, *longest) is None
