"""Products that read the same are done as one, and give the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, external_data_helper, numpy_helper

from lemonade_serve.errors import ModelLoadError
from lemonade_serve.worker.engines import fusion
from lemonade_serve.worker.engines.fusion import FusedGraph, fuse_products
from tests import graphs
from tests.graphs import HEAD_SIZE, Plan

QUANTISED = Plan(bits=8, accuracy_level=4)


def put(model: ModelProto, directory: Path, *, apart: bool = False) -> Path:
    """In a file, `apart` with its weights in another one."""
    path = directory / "model.onnx"
    onnx.save_model(
        model, str(path), save_as_external_data=apart, location="weights", size_threshold=0
    )
    return path


def run(model: ModelProto | FusedGraph, directory: Path, plan: Plan, rows: int) -> Any:
    """Logits, and all caches, of a few tokens and then one."""
    options = ort.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(directory)
    )
    if isinstance(model, FusedGraph):
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in model.stored.values()]
        options.add_external_initializers(list(model.stored), values)
        content = model.model
    else:
        content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    tokens = np.random.default_rng(1).integers(0, plan.vocabulary, (rows, 6))
    empty = np.zeros((rows, plan.kv_heads, 0, HEAD_SIZE), np.float32)
    past = {value.name: empty for value in session.get_inputs() if "past" in value.name}
    outputs: list[NDArray[Any]] = []
    for begin, end in ((0, 5), (5, 6)):
        given: dict[str, NDArray[Any]] = {
            "input_ids": tokens[:, begin:end],
            "attention_mask": np.ones((rows, end), np.int64),
            **past,
        }
        if plan.takes_positions:
            given["position_ids"] = np.tile(np.arange(begin, end), (rows, 1))
        made = dict(zip(names, session.run(names, given), strict=True))
        outputs += made.values()
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
    return outputs


def products(model: ModelProto | FusedGraph) -> list[NodeProto]:
    graph = onnx.load_from_string(model.model) if isinstance(model, FusedGraph) else model
    return [node for node in graph.graph.node if node.op_type == "MatMulNBits"]


@pytest.mark.parametrize("apart", [False, True], ids=["weights inside", "weights in a file"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("positions", [False, True], ids=["packed", "query, key and value"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_fused_graph_gives_the_same_bits(
    tmp_path: Path, rows: int, positions: bool, bits: int, apart: bool
) -> None:
    plan = Plan(bits=bits, accuracy_level=4, positions=positions)
    path = put(graphs.build(plan), tmp_path, apart=apart)
    fused = fuse_products(path)
    before, after = (
        run(onnx.load(str(path)), tmp_path, plan, rows),
        run(fused, tmp_path, plan, rows),
    )
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    # Of a layer: what attention reads, its output, gate with up, down; and the head.
    assert len(products(fused)) == 4 * plan.layers + 1


def test_zero_points_are_joined_too(tmp_path: Path) -> None:
    model = graphs.build(QUANTISED)
    for node in products(model):
        (columns,) = (a.i for a in node.attribute if a.name == "N")
        (inputs,) = (a.i for a in node.attribute if a.name == "K")
        zeros = np.random.default_rng(columns).integers(100, 156, (columns, inputs // 32), np.uint8)
        name = f"{node.input[1]}_zeros"
        model.graph.initializer.append(numpy_helper.from_array(zeros, name))
        node.input.append(name)
    path = put(model, tmp_path)
    fused = fuse_products(path)
    before, after = run(model, tmp_path, QUANTISED, 2), run(fused, tmp_path, QUANTISED, 2)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert len(products(fused)) == 4 * QUANTISED.layers + 1


def unlike_blocks(model: ModelProto) -> None:
    """Half the columns of each pair, in blocks of another kind."""
    for node in products(model):
        if node.name.endswith("up_proj/MatMul"):
            quants = next(t for t in model.graph.initializer if t.name == node.input[1])
            for attribute in node.attribute:
                if attribute.name == "bits":
                    attribute.i = 4
            values = numpy_helper.to_array(quants)[..., :16]
            quants.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), quants.name))


def shared_scales(model: ModelProto) -> None:
    """Gate and up read the same scales."""
    pairs: dict[str, str] = {}
    for node in products(model):
        if node.name.endswith(("gate_proj/MatMul", "up_proj/MatMul")):
            node.input[2] = pairs.setdefault(node.input[0], node.input[2])


@pytest.mark.parametrize("change", [unlike_blocks, shared_scales])
def test_what_is_not_alike_stays_apart(tmp_path: Path, change: Any) -> None:
    model = graphs.build(QUANTISED)
    change(model)
    path = put(model, tmp_path)
    fused = fuse_products(path)
    assert not fused.stored
    assert len(products(fused)) == 5 * QUANTISED.layers + 1
    before, after = run(model, tmp_path, QUANTISED, 1), run(fused, tmp_path, QUANTISED, 1)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("plan", [Plan(), Plan(bits=4), Plan(bits=8, accuracy_level=1)])
def test_what_a_neighbour_could_round_differently_is_left_alone(tmp_path: Path, plan: Plan) -> None:
    model = graphs.build(plan)
    fused = fuse_products(put(model, tmp_path))
    assert (fused.stored, onnx.load_from_string(fused.model)) == ({}, model)


def test_large_products_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and up of 64 columns by 32 are 4,096 bytes together."""
    path = put(graphs.build(QUANTISED), tmp_path)
    monkeypatch.setattr(fusion, "_LARGEST_BYTES", 4096)
    assert fuse_products(path).stored
    monkeypatch.setattr(fusion, "_LARGEST_BYTES", 4095)
    assert not fuse_products(path).stored


def move(path: Path, location: str) -> Path:
    """The weights of a graph to another place, as seen from it."""
    model = onnx.load(str(path), load_external_data=False)
    (path.parent / "weights").rename(path.parent / location)
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_with_another_name_elsewhere_are_read(tmp_path: Path) -> None:
    path = put(graphs.build(QUANTISED), tmp_path, apart=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "weights").hardlink_to(tmp_path / "weights")
    assert fuse_products(path).stored


def test_weights_outside_of_the_directory_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "checkpoint"
    inside.mkdir()
    path = move(put(graphs.build(QUANTISED), inside, apart=True), "../weights")
    with pytest.raises(ModelLoadError, match="outside of the checkpoint"):
        fuse_products(path)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "checkpoint"
    inside.mkdir()
    path = put(graphs.build(QUANTISED), inside, apart=True)
    (inside / "weights").rename(tmp_path / "weights")
    (inside / "weights").symlink_to(tmp_path / "weights")
    with pytest.raises(ModelLoadError, match="outside of the checkpoint"):
        fuse_products(path)


def test_weights_that_are_cut_short_are_an_error(tmp_path: Path) -> None:
    path = put(graphs.build(QUANTISED), tmp_path, apart=True)
    weights = tmp_path / "weights"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelLoadError, match="weights does not hold"):
        fuse_products(path)
    weights.unlink()
    with pytest.raises(ModelLoadError, match="weights does not hold"):
        fuse_products(path)
