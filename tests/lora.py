"""Adapters for tiny checkpoints, and what their graphs are with one worked in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Plan, build

Matrices = Mapping[str, npt.NDArray[np.float32]]


def matrices(
    adapted: Mapping[str, tuple[int, int]], seed: int, *, rank: int = 4, size: float = 0.3
) -> Matrices:
    """Random ones, normal and of that size; 0 makes an adapter that changes nothing. `adapted`
    says of each product how many values go in and come out."""
    random = np.random.default_rng(seed)
    made = {}
    for product, (inputs, outputs) in adapted.items():
        for side, shape in (("A", (inputs, rank)), ("B", (rank, outputs))):
            values = random.standard_normal(shape, np.float32) * np.float32(size)
            made[f"{product}.lora_{side}.weight"] = values
    return made


def write(path: Path, matrices: Matrices) -> Path:
    """As Olive does; returns `path`."""
    path.parent.mkdir(exist_ok=True)
    file = ort.AdapterFormat()
    file.set_parameters(
        {name: ort.OrtValue.ortvalue_from_numpy(values) for name, values in matrices.items()}
    )
    file.export_adapter(str(path))
    return path


def merged(plan: Plan, matrices: Matrices) -> onnx.ModelProto:
    """The graph that knows no adapters, and has one in its weights."""
    model = build(plan)
    for tensor in model.graph.initializer:
        product = tensor.name.removesuffix(".MatMul.weight")
        if product in plan.adapted:
            down, up = (matrices[f"{product}.lora_{side}.weight"] for side in "AB")
            weight = numpy_helper.to_array(tensor) + down @ up
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model


def grafted(model: onnx.ModelProto, products: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Let adapters change those block-quantised products of a decoder in whose weights' names one
    of these words is; returns how many values go in and come out of each, by its name."""
    graph, nodes, sizes = model.graph, list(model.graph.node), {}
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        if node.op_type != "MatMulNBits" or not any(word in node.input[1] for word in products):
            continue
        said = {attribute.name: attribute.i for attribute in node.attribute}
        name, made = node.input[1].removesuffix(".quants"), node.output[0]
        inputs, outputs = sizes[name] = said["K"], said["N"]
        graph.node[-1].output[0] = f"{made}.base"
        for side, shape, told in (
            ("A", (inputs, 0), (inputs, "lora_r")),
            ("B", (0, outputs), ("lora_r", outputs)),
        ):
            matrix = f"{name}.lora_{side}.weight"
            empty = np.zeros(shape, np.float32)
            graph.initializer.append(numpy_helper.from_array(empty, matrix))
            graph.input.append(helper.make_tensor_value_info(matrix, TensorProto.FLOAT, told))
        down, up = (f"{name}.lora_{side}" for side in "AB")
        graph.node.extend(
            [
                helper.make_node("MatMul", [node.input[0], f"{down}.weight"], [down]),
                helper.make_node("MatMul", [down, f"{up}.weight"], [up]),
                helper.make_node("Add", [f"{made}.base", up], [made]),
            ]
        )
    return sizes
