"""Small ONNX files, and checkpoints of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, save_model

FLOATS = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}


def matrix(name: str, dtype: str, rows: int = 8, columns: int = 8) -> TensorProto:
    """A weight, all zero."""
    kind = FLOATS[dtype]
    raw = np.zeros(rows * columns, np.float32 if dtype == "fp32" else np.uint16).tobytes()
    return helper.make_tensor(name, kind, [rows, columns], raw, raw=True)


def multiply(weight: str, op: str = "MatMul") -> NodeProto:
    return helper.make_node(op, ["x", weight], ["y"])


def multiply_quantised(bits: int | None, rows: int = 8, columns: int = 8) -> NodeProto:
    attributes: dict[str, Any] = {"K": rows, "N": columns, "block_size": 32}
    if bits is not None:
        attributes["bits"] = bits
    inputs = ["x", "packed", "scales"]
    return helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **attributes)


def model(nodes: list[NodeProto], weights: list[TensorProto] | None = None) -> ModelProto:
    return helper.make_model(helper.make_graph(nodes, "tiny", [], [], weights or []))


def write(path: Path, nodes: list[NodeProto], weights: list[TensorProto] | None = None) -> Path:
    save_model(model(nodes, weights), str(path))
    return path


def write_dtype(path: Path, dtype: str) -> Path:
    """A file whose one matrix is stored in `dtype`."""
    if dtype.startswith("int"):
        return write(path, [multiply_quantised(int(dtype.removeprefix("int")))])
    return write(path, [multiply("w")], [matrix("w", dtype)])


def put(
    directory: Path,
    dtype: str = "int4",
    *,
    file: str = "model.onnx",
    context_length: int = 2048,
    decoder: Mapping[str, int] = {},
) -> Path:
    """A checkpoint, as far as the catalogue looks."""
    directory.mkdir(parents=True)
    write_dtype(directory / file, dtype)
    model = {
        "type": "llama",
        "context_length": context_length,
        "decoder": {"filename": file, **decoder},
    }
    (directory / "genai_config.json").write_text(json.dumps({"model": model}))
    return directory
