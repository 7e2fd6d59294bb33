"""BERT as an ONNX graph, out of weights as transformers names them: what an export makes, without
the libraries that it takes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[Any]]

_TYPES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


class Shape(NamedTuple):
    """As `config.json` has it. `labels`: of a classifier; 0 where there is none."""

    hidden: int
    heads: int
    layers: int
    intermediate: int
    vocabulary: int
    positions: int
    epsilon: float = 1e-12
    labels: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        return cls(
            config["hidden_size"],
            config["num_attention_heads"],
            config["num_hidden_layers"],
            config["intermediate_size"],
            config["vocab_size"],
            config["max_position_embeddings"],
            config["layer_norm_eps"],
        )


def read_safetensors(path: Path) -> Weights:
    """The tensors of a file. Source: safetensors' README, "Format"."""
    content = path.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        begin, end = (8 + size + at for at in about["data_offsets"])
        flat = np.frombuffer(content[begin:end], _TYPES[about["dtype"]])
        tensors[name] = flat.reshape(about["shape"])
    return tensors


def random_weights(shape: Shape, seed: int = 0) -> Weights:
    """Of a network that says nothing, but says it differently of each text."""
    draw = np.random.default_rng(seed)

    def matrix(*sizes: int) -> NDArray[np.float32]:
        return draw.normal(0, 0.2, sizes).astype(np.float32)

    def norm(prefix: str) -> dict[str, NDArray[np.float32]]:
        return {
            f"{prefix}.LayerNorm.weight": np.ones(shape.hidden, np.float32),
            f"{prefix}.LayerNorm.bias": np.zeros(shape.hidden, np.float32),
        }

    def dense(name: str, inputs: int, outputs: int) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": matrix(outputs, inputs), f"{name}.bias": matrix(outputs)}

    hidden, weights = shape.hidden, dict[str, NDArray[Any]]()
    for kind, rows in (("word", shape.vocabulary), ("position", shape.positions)):
        weights[f"embeddings.{kind}_embeddings.weight"] = matrix(rows, hidden)
    weights["embeddings.token_type_embeddings.weight"] = matrix(2, hidden)
    weights |= norm("embeddings")
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for side in ("query", "key", "value"):
            weights |= dense(f"{at}.attention.self.{side}", hidden, hidden)
        weights |= dense(f"{at}.attention.output.dense", hidden, hidden)
        weights |= norm(f"{at}.attention.output")
        weights |= dense(f"{at}.intermediate.dense", hidden, shape.intermediate)
        weights |= dense(f"{at}.output.dense", shape.intermediate, hidden)
        weights |= norm(f"{at}.output")
    if shape.labels:
        weights |= dense("pooler.dense", hidden, hidden)
        weights |= dense("classifier", hidden, shape.labels)
    return weights


def build(shape: Shape, weights: Weights) -> onnx.ModelProto:
    """`input_ids`, `attention_mask` and `token_type_ids` to `last_hidden_state`, or with a
    classifier to `logits`."""
    return _Graph(shape, weights).model()


class _Graph:
    def __init__(self, shape: Shape, weights: Weights) -> None:
        self._shape = shape
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        ids = ["input_ids", "attention_mask", "token_type_ids"]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ids
        ]
        state = self._embeddings()
        mask = self._mask()
        for layer in range(self._shape.layers):
            state = self._layer(f"encoder.layer.{layer}", state, mask)
        output, sizes = "last_hidden_state", ["batch", "sequence", self._shape.hidden]
        if self._shape.labels:
            output, sizes = "logits", ["batch", self._shape.labels]
            first = self._do("Gather", state, self._constant("zero", np.int64(0)), axis=1)
            pooled = self._do("Tanh", self._dense("pooler.dense", first))
            state = self._dense("classifier", pooled)
        self._nodes.append(helper.make_node("Identity", [state], [output]))
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, sizes)]
        graph = helper.make_graph(
            self._nodes, "bert", inputs, outputs, list(self._constants.values())
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9)

    def _do(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        array = np.ascontiguousarray(value)
        self._constants[name] = numpy_helper.from_array(array.reshape(np.shape(value)), name)
        return name

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _dense(self, name: str, value: str) -> str:
        weight = self._constant(f"{name}.weight", self._weights[f"{name}.weight"].T)
        return self._do("Add", self._do("MatMul", value, weight), self._weight(f"{name}.bias"))

    def _norm(self, name: str, value: str) -> str:
        scale, bias = (self._weight(f"{name}.LayerNorm.{part}") for part in ("weight", "bias"))
        epsilon = self._shape.epsilon
        return self._do("LayerNormalization", value, scale, bias, axis=-1, epsilon=epsilon)

    def _embeddings(self) -> str:
        words, types, positions = (
            self._weight(f"embeddings.{kind}_embeddings.weight")
            for kind in ("word", "token_type", "position")
        )
        length = self._do("Gather", self._do("Shape", "input_ids"), self._constant("one", 1))
        zero, step = self._constant("begin", np.int64(0)), self._constant("step", np.int64(1))
        places = self._do("Range", zero, length, step)
        told = self._do(
            "Add",
            self._do("Gather", words, "input_ids"),
            self._do("Gather", types, "token_type_ids"),
        )
        return self._norm(
            "embeddings", self._do("Add", told, self._do("Gather", positions, places))
        )

    def _mask(self) -> str:
        """What is added to scores: nothing, or for padding the least number there is."""
        wide = self._do("Unsqueeze", "attention_mask", self._constant("axes", np.array([1, 2])))
        away = self._do(
            "Sub",
            self._constant("1.0", np.float32(1)),
            self._do("Cast", wide, to=TensorProto.FLOAT),
        )
        return self._do("Mul", away, self._constant("least", np.finfo(np.float32).min))

    def _layer(self, at: str, state: str, mask: str) -> str:
        width = self._shape.hidden // self._shape.heads
        split = self._constant("split", np.array([0, 0, self._shape.heads, width]))
        merge = self._constant("merge", np.array([0, 0, self._shape.hidden]))

        def heads(side: str, order: list[int]) -> str:
            sides = self._do("Reshape", self._dense(f"{at}.attention.self.{side}", state), split)
            return self._do("Transpose", sides, perm=order)

        scores = self._do("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
        root = self._constant("root", np.float32(width**0.5))
        shares = self._do("Softmax", self._do("Add", self._do("Div", scores, root), mask), axis=-1)
        mixed = self._do("MatMul", shares, heads("value", [0, 2, 1, 3]))
        joined = self._do("Reshape", self._do("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
        read = self._dense(f"{at}.attention.output.dense", joined)
        state = self._norm(f"{at}.attention.output", self._do("Add", read, state))
        inner = self._dense(f"{at}.intermediate.dense", state)
        thought = self._dense(f"{at}.output.dense", self._gelu(inner))
        return self._norm(f"{at}.output", self._do("Add", thought, state))

    def _gelu(self, value: str) -> str:
        root, one, half = (
            self._constant(name, np.float32(number))
            for name, number in (("root2", 2**0.5), ("1.0", 1), ("0.5", 0.5))
        )
        error = self._do("Add", self._do("Erf", self._do("Div", value, root)), one)
        return self._do("Mul", self._do("Mul", value, error), half)
