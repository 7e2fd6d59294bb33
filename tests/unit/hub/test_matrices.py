"""What a graph multiplies with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lemonade_serve.errors import ModelLoadError
from lemonade_serve.hub.matrices import outside, read_graph, stored_dtype
from tests.unit.hub.graphs import matrix, model, multiply, multiply_quantised, write, write_dtype


@pytest.mark.parametrize("dtype", ["int4", "int8", "fp16", "bf16", "fp32"])
def test_the_dtype_is_read_from_the_graph(tmp_path: Path, dtype: str) -> None:
    assert stored_dtype(write_dtype(tmp_path / "m.onnx", dtype)) == dtype


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_both_kinds_of_multiplication_count(tmp_path: Path, op: str) -> None:
    path = write(tmp_path / "m.onnx", [multiply("w", op)], [matrix("w", "bf16")])
    assert stored_dtype(path) == "bf16"


def test_quantised_without_a_width_is_four_bits(tmp_path: Path) -> None:
    assert stored_dtype(write(tmp_path / "m.onnx", [multiply_quantised(None)])) == "int4"


def test_four_bits_that_are_not_evenly_spaced_are_four_bits(tmp_path: Path) -> None:
    node = multiply_quantised(None)
    node.op_type = "MatMulBnb4"
    assert stored_dtype(write(tmp_path / "m.onnx", [node])) == "int4"


def test_the_dtype_of_most_elements_counts(tmp_path: Path) -> None:
    nodes = [multiply_quantised(4, 64, 64), multiply("a"), multiply("b")]
    weights = [matrix("a", "fp32"), matrix("b", "fp32", 16, 16)]
    assert stored_dtype(write(tmp_path / "m.onnx", nodes, weights)) == "int4"
    weights = [matrix("a", "fp32"), matrix("b", "fp32", 128, 128)]
    assert stored_dtype(write(tmp_path / "m.onnx", nodes, weights)) == "fp32"


def test_what_is_not_multiplied_with_does_not_count(tmp_path: Path) -> None:
    embedding = matrix("embedding", "fp32", 512, 64)
    gather = helper.make_node("Gather", ["embedding", "ids"], ["x"])
    norm = helper.make_tensor("norm", TensorProto.FLOAT, [4096], bytes(4 * 4096), raw=True)
    nodes = [gather, multiply("w"), helper.make_node("Mul", ["y", "norm"], ["z"])]
    path = write(tmp_path / "m.onnx", nodes, [embedding, matrix("w", "fp16"), norm])
    assert stored_dtype(path) == "fp16"


def test_a_product_of_two_computed_matrices_does_not_count(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["q", "k"], ["scores"]), multiply("w")]
    assert stored_dtype(write(tmp_path / "m.onnx", nodes, [matrix("w", "fp16")])) == "fp16"


def test_files_with_weights_are_named_wherever_in_the_graph_they_are_used(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=matrix("c", "fp32"))
    tiny = model([constant, multiply("w")], [matrix("w", "fp32"), matrix("inside", "fp32")])
    for tensor, place in ((constant.attribute[0].t, "c_value"), (tiny.graph.initializer[0], "w")):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
    tiny.graph.node[0].CopyFrom(constant)
    (tmp_path / "m.onnx").write_bytes(tiny.SerializeToString())
    assert outside(read_graph(tmp_path / "m.onnx")) == {"c_value", "w"}


def test_the_weights_are_not_read(tmp_path: Path) -> None:
    tiny = model([multiply("w")], [numpy_helper.from_array(np.zeros((64, 64), np.float16), "w")])
    path = tmp_path / "m.onnx"
    onnx.save_model(tiny, str(path), save_as_external_data=True, location="m.data")
    (tmp_path / "m.data").unlink()
    assert stored_dtype(path) == "fp16"


@pytest.mark.parametrize("content", [None, b"", b"not a graph", b"\xff" * 64])
def test_what_is_no_onnx_file_is_a_load_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    if content == b"":
        assert stored_dtype(path) == "fp32"  # an empty file is an empty graph to protobuf
    else:
        with pytest.raises(ModelLoadError, match=r"m\.onnx"):
            stored_dtype(path)
