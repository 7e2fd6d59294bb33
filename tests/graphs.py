"""Tiny random decoders, node for node as onnxruntime-genai's model builder (0.18) writes them.

They say nonsense, the same at every run, and load wherever the builder's own files do.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

MICROSOFT: Final = "com.microsoft"
_FLOATS: Final = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
HEADS: Final = 4
HEAD_SIZE: Final = 16
_FEED_FORWARD: Final = 64
CONTEXT: Final = 2048
_ADAPTED: Final = ("attn.o_proj", "mlp.down_proj")
"""What adapters of a layer change."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a decoder is to be like.

    With `positions`, as for DirectML, `position_ids` are an input and RotaryEmbedding reads them;
    else attention rotates. `grouped` is GroupQueryAttention; else MultiHeadAttention with caches
    that grow, as for half precision on a CPU, and position ids. `bits` quantises products at an
    `accuracy_level`. `pruned` computes logits of the last position only. A `window` bounds what
    odd layers attend to. With `lora`, two products of each layer add what an adapter makes of the
    same values: its matrices are optional inputs, as Olive makes them.
    """

    dtype: str = "float32"
    positions: bool = False
    grouped: bool = True
    bits: int | None = None
    accuracy_level: int = 0
    pruned: bool = False
    window: int = -1
    layers: int = 2
    hidden: int = 32
    vocabulary: int = 512
    lora: bool = False

    @property
    def kv_heads(self) -> int:
        return 2 if self.grouped else HEADS

    @property
    def adapted(self) -> dict[str, tuple[int, int]]:
        """Of each product that adapters change, by its name, how many values go in and come out."""
        sizes = dict(zip(_ADAPTED, (HEADS * HEAD_SIZE, _FEED_FORWARD), strict=True))
        return {
            f"model.layers.{layer}.{product}": (size, self.hidden)
            for layer in range(self.layers)
            for product, size in sizes.items()
        }

    @property
    def takes_positions(self) -> bool:
        return self.positions or not self.grouped


def build(plan: Plan) -> onnx.ModelProto:
    """The graph, with its weights in it."""
    return _Builder(plan).build()


class _Builder:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = np.random.default_rng(20)
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._constants: set[str] = set()
        self._optional: list[onnx.ValueInfoProto] = []
        self._float = _FLOATS[plan.dtype]

    def build(self) -> onnx.ModelProto:
        plan = self._plan
        lengths = self._row_lengths() if plan.grouped else (self._causal_mask(),)
        if plan.grouped or plan.takes_positions:
            self._rotary_tables()
        table = self._weight("model.embed_tokens.weight", (plan.vocabulary, plan.hidden), 1.0)
        states = self._add("/model/embed_tokens/Gather", "Gather", table, "input_ids")
        weight = self._ones("model.layers.0.input_layernorm.weight")
        normed = self._add(
            "/model/layers.0/input_layernorm",
            "SimplifiedLayerNormalization",
            states,
            weight,
            axis=-1,
            epsilon=1e-6,
            stash_type=1,
        )
        for layer in range(plan.layers):
            states, normed = self._layer(layer, states, normed, lengths)
        if plan.pruned:
            normed = self._last_position(normed)
        self._product(normed, "lm_head", plan.hidden, plan.vocabulary, output="logits")
        return self._model()

    def _row_lengths(self) -> tuple[str, str]:
        base = "/model/attn_mask_reformat/attn_mask_subgraph"
        one = self._constant([1])
        counts = self._add(f"{base}/ReduceSum", "ReduceSum", "attention_mask", one, keepdims=0)
        last = self._add(f"{base}/Sub", "Sub", counts, one)
        lasts = self._add(f"{base}/Sub/Cast", "Cast", last, to=TensorProto.INT32)
        shape = self._add(f"{base}/Shape", "Shape", "attention_mask")
        width = self._add(f"{base}/Gather", "Gather", shape, self._constant(1), axis=0)
        return lasts, self._add(f"{base}/Gather/Cast", "Cast", width, to=TensorProto.INT32)

    def _causal_mask(self) -> str:
        """Of one sequence: the builder's takes fifty nodes, and reads the mask of many too."""
        base = "/model/attn_mask_reformat"
        zero, one = self._constant(0), self._constant(1)
        width = self._add(f"{base}/Shape", "Shape", "attention_mask")
        total = self._add(f"{base}/Gather", "Gather", width, one, axis=0)
        length = self._add(f"{base}/Shape_1", "Shape", "input_ids")
        new = self._add(f"{base}/Gather_1", "Gather", length, one, axis=0)
        past = self._add(f"{base}/Sub", "Sub", total, new)
        keys = self._add(f"{base}/Range", "Range", zero, total, one)
        queries = self._add(f"{base}/Range_1", "Range", past, total, one)
        column = self._add(f"{base}/Unsqueeze", "Unsqueeze", queries, self._constant([1]))
        seen = self._add(f"{base}/LessOrEqual", "LessOrEqual", keys, column)
        lowest = np.finfo(self._plan.dtype).min
        nothing, all_of_it = (self._constant(x, self._plan.dtype) for x in (0.0, float(lowest)))
        biases = self._add(f"{base}/Where", "Where", seen, nothing, all_of_it)
        return self._add(f"{base}/Unsqueeze_1", "Unsqueeze", biases, self._constant([0, 1]))

    def _rotary_tables(self) -> None:
        rates = 10000.0 ** (-np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
        angles = np.outer(np.arange(CONTEXT), rates)
        for name, table in (("cos_cache", np.cos(angles)), ("sin_cache", np.sin(angles))):
            self._weights[name] = self._tensor(name, table)

    def _layer(
        self, layer: int, states: str, normed: str, lengths: tuple[str, ...]
    ) -> tuple[str, str]:
        plan, base = self._plan, f"/model/layers.{layer}"
        attended = self._attention(layer, normed, lengths)
        update = self._product(
            attended, f"model.layers.{layer}.attn.o_proj", HEADS * HEAD_SIZE, plan.hidden
        )
        states, normed = self._add_and_norm(f"{base}/post_attention_layernorm", states, update)
        mlp = f"model.layers.{layer}.mlp"
        gate = self._product(normed, f"{mlp}.gate_proj", plan.hidden, _FEED_FORWARD)
        up = self._product(normed, f"{mlp}.up_proj", plan.hidden, _FEED_FORWARD)
        sigmoid = self._add(f"{base}/mlp/act_fn/Sigmoid", "Sigmoid", gate)
        active = self._add(f"{base}/mlp/act_fn/Mul", "Mul", gate, sigmoid)
        product = self._add(f"{base}/mlp/Mul", "Mul", active, up)
        update = self._product(product, f"{mlp}.down_proj", _FEED_FORWARD, plan.hidden)
        last = layer + 1 == plan.layers
        norm = "final_norm_layernorm" if last else "input_layernorm"
        return self._add_and_norm(f"/model/layers.{layer + 1}/{norm}", states, update)

    def _attention(self, layer: int, normed: str, lengths: tuple[str, ...]) -> str:
        plan, base = self._plan, f"/model/layers.{layer}/attn"
        query, key, value = self._query_key_value(layer, normed)
        past = [f"past_key_values.{layer}.{side}" for side in ("key", "value")]
        present = [f"present.{layer}.{side}" for side in ("key", "value")]
        common = {"num_heads": HEADS, "scale": HEAD_SIZE**-0.5}
        if not plan.grouped:
            name = f"{base}/MultiHeadAttention"
            inputs = [query, key, value, "", "", *lengths, *past]
            self._append(name, "MultiHeadAttention", inputs, present, unidirectional=0, **common)
            return f"{name}/output_0"
        tables = ["", ""] if plan.positions else ["cos_cache", "sin_cache"]
        name = f"{base}/GroupQueryAttention"
        self._append(
            name,
            "GroupQueryAttention",
            [query, key, value, *past, *lengths, *tables, "", "", ""],
            present,
            kv_num_heads=plan.kv_heads,
            local_window_size=plan.window if layer % 2 else -1,
            softcap=0.0,
            do_rotary=int(not plan.positions),
            rotary_interleaved=0,
            **common,
        )
        return f"{name}/output_0"

    def _query_key_value(self, layer: int, normed: str) -> tuple[str, str, str]:
        plan, weights = self._plan, f"model.layers.{layer}.attn"
        sizes = [heads * HEAD_SIZE for heads in (HEADS, plan.kv_heads, plan.kv_heads)]
        if not plan.takes_positions:  # packed: attention splits it
            return self._product(normed, f"{weights}.qkv_proj", plan.hidden, sum(sizes)), "", ""
        query, key, value = (
            self._product(normed, f"{weights}.{side}_proj", plan.hidden, size)
            for side, size in zip("qkv", sizes, strict=True)
        )
        return self._rotate(layer, "q", query), self._rotate(layer, "k", key), value

    def _rotate(self, layer: int, side: str, values: str) -> str:
        return self._add(
            f"/model/layers.{layer}/attn/{side}_rotary/RotaryEmbedding",
            "RotaryEmbedding",
            values,
            "position_ids",
            "cos_cache",
            "sin_cache",
            domain=MICROSOFT,
            interleaved=0,
            num_heads=0,
            rotary_embedding_dim=0,
        )

    def _add_and_norm(self, name: str, states: str, update: str) -> tuple[str, str]:
        """The sum, and its norm."""
        weight = self._ones(f"{name.removeprefix('/').replace('/', '.')}.weight")
        total = f"{name}/output_3"
        self._append(
            name,
            "SkipSimplifiedLayerNormalization",
            [states, update, weight],
            ["", "", total],
            epsilon=1e-6,
        )
        return total, f"{name}/output_0"

    def _last_position(self, values: str) -> str:
        base = "/lm_head/prune"
        last = self._add(f"{base}/Gather", "Gather", values, self._constant(-1), axis=1)
        return self._add(f"{base}/Unsqueeze", "Unsqueeze", last, self._constant([1]))

    def _product(
        self, values: str, weight: str, inputs: int, outputs: int, output: str | None = None
    ) -> str:
        made = self._plain_product(values, weight, inputs, outputs, output)
        if not self._plan.lora or weight not in self._plan.adapted:
            return made
        base = f"/{weight}"
        down = self._matrix(f"{weight}.lora_A.weight", (inputs, 0), (inputs, "lora_r"))
        up = self._matrix(f"{weight}.lora_B.weight", (0, outputs), ("lora_r", outputs))
        small = self._add(f"{base}/lora_A/MatMul", "MatMul", values, down)
        update = self._add(f"{base}/lora_B/MatMul", "MatMul", small, up)
        return self._add(f"{base}/lora/Add", "Add", made, update)

    def _matrix(self, name: str, shape: tuple[int, int], told: tuple[int | str, int | str]) -> str:
        """Of an adapter; empty where there is none."""
        self._weights[name] = self._tensor(name, np.zeros(shape))
        self._optional.append(helper.make_tensor_value_info(name, self._float, told))
        return name

    def _plain_product(
        self, values: str, weight: str, inputs: int, outputs: int, output: str | None = None
    ) -> str:
        name = "/" + weight.replace("model.layers.", "model/layers.").replace(".attn.", "/attn/")
        made = output or f"{name}/MatMul/output_0"
        scale = 2.0 * inputs**-0.5
        if self._plan.bits is None:
            matrix = self._weight(f"{weight}.MatMul.weight", (inputs, outputs), scale)
            self._nodes.append(
                helper.make_node("MatMul", [values, matrix], [made], f"{name}/MatMul")
            )
            return made
        quants, scales = self._quantised(f"{weight}.MatMul.weight", inputs, outputs, scale)
        level = self._plan.accuracy_level
        self._nodes.append(
            helper.make_node(
                "MatMulNBits",
                [values, quants, scales],
                [made],
                f"{name}/MatMul",
                domain=MICROSOFT,
                K=inputs,
                N=outputs,
                bits=self._plan.bits,
                block_size=32,
                **({"accuracy_level": level} if level else {}),
            )
        )
        return made

    def _quantised(self, name: str, inputs: int, outputs: int, scale: float) -> tuple[str, str]:
        bits, blocks = self._plan.bits or 0, inputs // 32
        packed = self._random.integers(0, 256, (outputs, blocks, 4 * bits), np.uint8)
        size = scale / 2 ** (bits - 1)
        quants, scales = f"{name}_Q{bits}", f"{name}_scales"
        self._weights[quants] = numpy_helper.from_array(packed, quants)
        self._weights[scales] = self._tensor(scales, np.full((outputs, blocks), size))
        return quants, scales

    def _weight(self, name: str, shape: tuple[int, ...], scale: float) -> str:
        values = self._random.standard_normal(shape, np.float32) * scale
        self._weights[name] = self._tensor(name, values)
        return name

    def _ones(self, name: str) -> str:
        self._weights[name] = self._tensor(name, np.ones(self._plan.hidden))
        return name

    def _tensor(self, name: str, values: npt.NDArray[Any]) -> TensorProto:
        return numpy_helper.from_array(values.astype(self._plan.dtype), name)

    def _constant(self, value: float | list[int], dtype: str = "int64") -> str:
        name = f"/model/constants/{dtype.upper()}/{value}"
        if name not in self._constants:
            self._constants.add(name)
            tensor = numpy_helper.from_array(np.array(value, dtype), name)
            self._nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def _add(self, name: str, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{name}/output_0"
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def _append(
        self, name: str, operator: str, inputs: list[str], more: list[str], **attributes: Any
    ) -> None:
        """A node of ONNX Runtime's own, of several outputs."""
        outputs = [f"{name}/output_0", *more]
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, name, domain=MICROSOFT, **attributes)
        )

    def _model(self) -> onnx.ModelProto:
        plan, describe = self._plan, helper.make_tensor_value_info
        rows, tokens = "batch_size", "sequence_length"
        ids = ["input_ids", *(["position_ids"] if plan.takes_positions else [])]
        inputs = [describe(name, TensorProto.INT64, [rows, tokens]) for name in ids]
        inputs.insert(
            1, describe("attention_mask", TensorProto.INT64, [rows, "total_sequence_length"])
        )
        logits = [rows, 1 if plan.pruned else tokens, plan.vocabulary]
        outputs = [describe("logits", self._float, logits)]
        for side in ("key", "value"):
            for layer in range(plan.layers):
                for name, values, length in (
                    (f"past_key_values.{layer}.{side}", inputs, "past_sequence_length"),
                    (f"present.{layer}.{side}", outputs, "total_sequence_length"),
                ):
                    shape = [rows, plan.kv_heads, length, "kv_cache_dim"]
                    values.append(describe(name, self._float, shape))
        graph = helper.make_graph(
            self._nodes,
            "main_graph",
            [*inputs, *self._optional],
            outputs,
            list(self._weights.values()),
        )
        opsets = [helper.make_opsetid("", 22), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, producer_name="onnxruntime-genai", ir_version=10, opset_imports=opsets
        )
