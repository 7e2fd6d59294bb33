"""The decoder as an ONNX graph in ONNX Runtime GenAI's shape.

Inputs `input_ids`, `attention_mask`, `past_key_values.N.key|value`; outputs `logits` `[B, 1, V]` of
the last position only, `present.N.key|value`. GroupQueryAttention rotates inside and takes each
row's length from the mask, so ragged batches and shared past/present buffers work; there are no
`position_ids`. Scales cost nothing: the attention's lies in the query rows, or in the norm of the
queries, that of the residuals in the rows of what makes them, that of the logits in the last norm.
After the last attention only the last position is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from lemonade_serve.importers.architectures.decoder import Activation, Decoder
from lemonade_serve.importers.blocks import Form
from lemonade_serve.importers.levels import Floats
from lemonade_serve.importers.nodes import MICROSOFT, Nodes
from lemonade_serve.importers.plan import LayerPlan, Matrix, Plan, Table

_ACCURACY_LEVEL: Final = 4  # activations in int8: lower levels have no fast kernel for 8 bit

Vector = Callable[[str], Floats]


def build(decoder: Decoder, plan: Plan, vector: Vector) -> onnx.ModelProto:
    """The model whose initialisers lie where the plan says; `vector` reads one of the GGUF."""
    return _DecoderGraph(decoder, plan, vector).build()


class _DecoderGraph:
    """One decoder's graph."""

    def __init__(self, decoder: Decoder, plan: Plan, vector: Vector) -> None:
        self._decoder = decoder
        self._plan = plan
        self._vector = vector
        self._graph = Nodes()
        self._block_sums: dict[str, str] = {}
        self._lengths = self._total = ""

    def build(self) -> onnx.ModelProto:
        self._read_mask()
        states = self._embed()
        normed = self._norm(states, "blk.0.attn_norm")
        for index, layer in enumerate(self._plan.layers):
            states, normed = self._layer(index, layer, states, normed)
        head = self._plan.head or self._plan.embedding
        self._linear(normed, head, output="logits")
        return self._model()

    def _read_mask(self) -> None:
        graph = self._graph
        counts = graph.add("ReduceSum", "attention_mask", graph.shape(1), keepdims=0)
        last = graph.add("Sub", counts, graph.shape(1))
        self._lengths = graph.add("Cast", last, to=TensorProto.INT32)
        total = graph.add("Shape", "attention_mask", start=1, end=2)
        scalar = graph.add("Squeeze", total)
        self._total = graph.add("Cast", scalar, to=TensorProto.INT32)

    def _embed(self) -> str:
        graph, matrix = self._graph, self._plan.embedding
        if matrix.form is Form.FLOAT:
            states = graph.add("Gather", graph.stored(matrix.quants), "input_ids")
        else:
            states = self._gather_quantised(matrix)
        if self._decoder.embedding_scale == 1.0:
            return states
        scale = np.array(self._decoder.embedding_scale, np.float32)
        return graph.add("Mul", states, graph.constant("embedding_scale", scale))

    def _gather_quantised(self, matrix: Matrix) -> str:
        """Rows of the same bytes that lm_head multiplies by, seen in two dimensions."""
        graph = self._graph
        if matrix.scales is None:
            raise ValueError("a packed matrix has scales")
        data = graph.stored(matrix.quants, "embedding.rows", (matrix.rows, matrix.columns))
        inputs = [data, "input_ids", graph.stored(matrix.scales)]
        if matrix.zeros is not None:
            inputs.append(graph.stored(matrix.zeros))
        return graph.add(
            "GatherBlockQuantized",
            *inputs,
            domain=MICROSOFT,
            bits=8,
            block_size=matrix.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _layer(self, index: int, layer: LayerPlan, states: str, normed: str) -> tuple[str, str]:
        """One layer; returns the residual stream and what the next matrix reads, normed."""
        graph, prefix = self._graph, f"blk.{index}"
        attended = self._attention(index, layer, normed)
        last = index + 1 == len(self._plan.layers)
        if last:
            attended, states = self._last_position(attended), self._last_position(states)
        update = self._linear(attended, layer.output)
        if self._decoder.sandwich_norm:
            update = self._norm(update, f"{prefix}.post_attention_norm")
        states, normed = self._add_and_norm(states, update, f"{prefix}.ffn_norm")
        gate = self._activate(self._linear(normed, layer.gate))
        product = graph.add("Mul", gate, self._linear(normed, layer.up))
        update = self._linear(product, layer.down)
        if self._decoder.sandwich_norm:
            update = self._norm(update, f"{prefix}.post_ffw_norm")
        if last:
            return self._add_and_norm(states, update, "output_norm", self._decoder.logit_scale)
        return self._add_and_norm(states, update, f"blk.{index + 1}.attn_norm")

    def _last_position(self, values: str) -> str:
        graph = self._graph
        index = graph.constant("last", np.array(-1, np.int64))
        return graph.add("Unsqueeze", graph.add("Gather", values, index, axis=1), graph.shape(1))

    def _attention(self, index: int, layer: LayerPlan, normed: str) -> str:
        decoder, graph = self._decoder, self._graph
        settings, table = decoder.layers[index], self._table(index)
        inputs = (
            *self._query_key_value(index, layer, normed),
            f"past_key_values.{index}.key",
            f"past_key_values.{index}.value",
            self._lengths,
            self._total,
            graph.stored(table.cosines),
            graph.stored(table.sines),
        )
        attended = f"attended_{index}"
        window = {} if settings.window is None else {"local_window_size": settings.window}
        graph.append(
            "GroupQueryAttention",
            inputs,
            [attended, f"present.{index}.key", f"present.{index}.value"],
            domain=MICROSOFT,
            num_heads=decoder.heads,
            kv_num_heads=decoder.kv_heads,
            scale=1.0,  # it is in the queries: other scales have no fast kernel for one row
            do_rotary=1,
            rotary_interleaved=0,
            **window,
        )
        return attended

    def _table(self, index: int) -> Table:
        rope = self._decoder.layers[index].rope
        return next(table for table in self._plan.tables if table.rope == rope)

    def _query_key_value(self, index: int, layer: LayerPlan, normed: str) -> tuple[str, str, str]:
        decoder, sides = self._decoder, ["qkv"] if len(layer.attention) == 1 else list("qkv")
        parts = [self._linear(normed, matrix) for matrix in layer.attention]
        if decoder.biased:
            parts = [
                self._graph.add("Add", part, self._biases(index, side))
                for part, side in zip(parts, sides, strict=True)
            ]
        norms = decoder.query_key_norm
        if len(parts) == 1 and not norms:
            return parts[0], "", ""  # GroupQueryAttention splits it
        if len(parts) == 1:
            lengths = self._graph.shape(*decoder.attention_rows)
            parts = self._graph.add_many("Split", 3, parts[0], lengths, axis=-1)
        query, key, value = parts
        if norms:
            scale = decoder.attention_scale
            query = self._norm_heads(query, decoder.heads, f"blk.{index}.attn_q_norm", scale)
            key = self._norm_heads(key, decoder.kv_heads, f"blk.{index}.attn_k_norm")
        return query, key, value

    def _biases(self, index: int, sides: str) -> str:
        """Of q, k or v, or of all three in a row. The query's has the attention's scale in it."""
        scale = 1.0 if self._decoder.query_key_norm else self._decoder.attention_scale
        biases = [
            self._vector(f"blk.{index}.attn_{side}.bias")
            * np.float32(scale if side == "q" else 1.0)
            for side in sides
        ]
        return self._graph.constant(f"blk.{index}.attn_{sides}.bias", np.concatenate(biases))

    def _norm_heads(self, values: str, heads: int, name: str, factor: float = 1.0) -> str:
        graph, size = self._graph, self._decoder.head_size
        split = graph.add("Reshape", values, graph.shape(0, -1, heads, size))
        normed = self._norm(split, name, factor)
        return graph.add("Reshape", normed, graph.shape(0, -1, heads * size))

    def _activate(self, values: str) -> str:
        if self._decoder.activation is Activation.GELU_TANH:
            return self._graph.add("FastGelu", values, domain=MICROSOFT)
        return self._graph.add("QuickGelu", values, domain=MICROSOFT, alpha=1.0)  # x·sigmoid(x)

    def _norm(self, values: str, name: str, factor: float = 1.0) -> str:
        return self._graph.add(
            "SimplifiedLayerNormalization",
            values,
            self._norm_weight(name, factor),
            axis=-1,
            epsilon=self._decoder.epsilon,
            stash_type=1,
        )

    def _add_and_norm(
        self, states: str, update: str, name: str, factor: float = 1.0
    ) -> tuple[str, str]:
        """The sum, and its norm times a factor."""
        normed, *_, total = self._graph.add_many(
            "SkipSimplifiedLayerNormalization",
            4,
            states,
            update,
            self._norm_weight(name, factor),
            domain=MICROSOFT,
            epsilon=self._decoder.epsilon,
        )
        return total, normed

    def _norm_weight(self, name: str, factor: float = 1.0) -> str:
        weight = self._vector(f"{name}.weight") * np.float32(factor)
        return self._graph.constant(f"{name}.weight", weight)

    def _linear(self, values: str, matrix: Matrix, output: str = "") -> str:
        """values · matrixᵀ."""
        graph = self._graph
        if matrix.scales is None:
            weight = graph.stored(matrix.quants)
            result = self._transposed(values, weight)
        else:
            inputs = [values, graph.stored(matrix.quants), graph.stored(matrix.scales)]
            if matrix.zeros is not None:
                inputs.append(graph.stored(matrix.zeros))
            result = graph.add(
                "MatMulNBits",
                *inputs,
                domain=MICROSOFT,
                K=matrix.columns,
                N=matrix.rows,
                bits=matrix.form.bits,
                block_size=matrix.block,
                accuracy_level=_ACCURACY_LEVEL,
            )
        if matrix.correction is not None:
            sums = self._sums(values, matrix.columns // matrix.block, matrix.block)
            correction = self._transposed(sums, graph.stored(matrix.correction))
            result = graph.add("Add", result, correction)
        if output:
            graph.nodes[-1].output[0] = output
        return result

    def _transposed(self, values: str, weight: str) -> str:
        return self._graph.add("FusedMatMul", values, weight, domain=MICROSOFT, transB=1)

    def _sums(self, values: str, blocks: int, block: int) -> str:
        """Sums of each block of the last axis, made once for all matrices that read `values`."""
        if values not in self._block_sums:
            graph = self._graph
            split = graph.add("Reshape", values, graph.shape(0, -1, blocks, block))
            sums = graph.add("ReduceSum", split, graph.shape(-1), keepdims=0)
            self._block_sums[values] = sums
        return self._block_sums[values]

    def _model(self) -> onnx.ModelProto:
        decoder = self._decoder
        integers, numbers = TensorProto.INT64, TensorProto.FLOAT
        describe = helper.make_tensor_value_info
        inputs = [
            describe("input_ids", integers, ["batch", "sequence"]),
            describe("attention_mask", integers, ["batch", "total"]),
        ]
        outputs = [describe("logits", numbers, ["batch", 1, decoder.vocabulary])]

        def cache(length: str) -> list[str | int | None]:
            return ["batch", decoder.kv_heads, length, decoder.head_size]

        for index in range(len(decoder.layers)):
            for side in ("key", "value"):
                past, present = f"past_key_values.{index}.{side}", f"present.{index}.{side}"
                inputs.append(describe(past, numbers, cache("past")))
                outputs.append(describe(present, numbers, cache("present")))
        graph = helper.make_graph(
            self._graph.nodes, "decoder", inputs, outputs, list(self._graph.initialisers.values())
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, producer_name="lemonade-serve", ir_version=10, opset_imports=opsets
        )
