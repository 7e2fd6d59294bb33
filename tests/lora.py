"""Adapters for tiny checkpoints, and what their graphs are with one worked in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from tests.graphs import Plan, build

Matrices = Mapping[str, npt.NDArray[np.float32]]


def matrices(plan: Plan, seed: int, *, rank: int = 4, size: float = 0.3) -> Matrices:
    """Random ones, normal and of that size; 0 makes an adapter that changes nothing."""
    random = np.random.default_rng(seed)
    made = {}
    for product, (inputs, outputs) in plan.adapted.items():
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
