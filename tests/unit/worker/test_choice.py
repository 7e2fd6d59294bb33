"""Which graphs the batched engine takes, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from lemonade_serve.errors import ModelLoadError
from lemonade_serve.worker.engines.choice import Choice, Decoder, examine
from tests import checkpoints, graphs, tiny
from tests.graphs import MICROSOFT, Plan

Change = Callable[[GraphProto], None]


def taken(choice: Choice) -> Decoder:
    assert choice.decoder is not None, choice.why
    return choice.decoder


def refused(choice: Choice) -> str:
    assert choice.decoder is None
    return choice.why


@pytest.fixture
def examined(tmp_path: Path) -> Callable[..., Choice]:
    """What is said of a planned decoder, after a change to its graph or its configuration."""

    def examine_changed(
        plan: Plan | None = None,
        change: Change | None = None,
        configure: Callable[[dict[str, Any]], None] | None = None,
    ) -> Choice:
        plan = plan or Plan()
        model, config = graphs.build(plan), tiny.config(plan)
        if change is not None:
            change(model.graph)
        if configure is not None:
            configure(config["model"])
        onnx.save_model(model, str(tmp_path / "model.onnx"))
        tiny.write_config(tmp_path, config)
        return examine(tmp_path, "cpu")

    return examine_changed


def only(graph: GraphProto, operator: str) -> NodeProto:
    """The first node of an operator."""
    return next(node for node in graph.node if node.op_type == operator)


def set_attribute(node: NodeProto, name: str, value: int) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def describe(graph: GraphProto, name: str) -> onnx.TypeProto.Tensor:
    (value,) = (value for value in [*graph.input, *graph.output] if value.name == name)
    return value.type.tensor_type


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(positions=True),
        Plan(dtype="float16"),
        Plan(dtype="float16", positions=True, bits=4),
        Plan(bits=4, accuracy_level=4, pruned=True),
        Plan(window=16),
    ],
    ids=str,
)
def test_what_the_model_builder_makes_for_grouped_attention_is_taken(
    tmp_path: Path, plan: Plan
) -> None:
    directory = tiny.put(tmp_path / "made", plan)
    choice = examine(directory, "cpu")
    assert choice.why == "GroupQueryAttention with shared past and present"
    assert choice.decoder == Decoder(
        model=directory / "model.onnx",
        input_ids="input_ids",
        attention_mask="attention_mask",
        position_ids="position_ids" if plan.positions else None,
        logits="logits",
        past_keys=("past_key_values.0.key", "past_key_values.1.key"),
        past_values=("past_key_values.0.value", "past_key_values.1.value"),
        present_keys=("present.0.key", "present.1.key"),
        present_values=("present.0.value", "present.1.value"),
        kv_heads=2,
        head_size=16,
        cache_dtype=plan.dtype,
        logits_dtype=plan.dtype,
        last_position_only=plan.pruned,
        vocabulary=512,
        least_rows=2 if plan.bits and plan.accuracy_level != 4 else 1,
    )


@pytest.mark.parametrize("plan", [Plan(positions=True), Plan(dtype="float16")], ids=str)
def test_what_is_said_of_a_decoder_is_how_it_runs(tmp_path: Path, plan: Plan) -> None:
    decoder = taken(examine(tiny.put(tmp_path / "made", plan), "cpu"))
    session = ort.InferenceSession(str(decoder.model), providers=["CPUExecutionProvider"])
    rows, tokens, capacity = 2, 3, 8
    cache = np.zeros((rows, decoder.kv_heads, capacity, decoder.head_size), decoder.cache_dtype)
    ids = np.arange(rows * tokens).reshape(rows, tokens)
    fed = {decoder.input_ids: ids, decoder.attention_mask: np.ones_like(ids)}
    fed |= dict.fromkeys(decoder.past_keys + decoder.past_values, cache)
    if decoder.position_ids:
        fed[decoder.position_ids] = np.tile(np.arange(tokens), (rows, 1))
    names = [decoder.logits, *decoder.present_keys, *decoder.present_values]
    logits, *present = session.run(names, fed)
    assert logits.shape == (rows, tokens, decoder.vocabulary)
    assert logits.dtype == decoder.logits_dtype
    assert {one.shape for one in present} == {cache.shape}


def test_what_the_importer_makes_is_taken(cache_dir: Path) -> None:
    decoder = taken(examine(checkpoints.original(cache_dir), "cpu"))
    assert decoder.last_position_only
    assert (decoder.kv_heads, decoder.head_size, decoder.least_rows) == (3, 64, 1)
    assert len(decoder.past_keys) == 30


def test_only_a_cpu_will_do(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "made", Plan())
    assert refused(examine(directory, "OpenVINO")) == "it runs on OpenVINO, not on cpu"


@pytest.mark.parametrize("part", ["encoder", "embedding", "vision", "speech"])
def test_a_model_of_several_parts_is_not_taken(examined: Callable[..., Choice], part: str) -> None:
    choice = examined(configure=lambda model: model.update({part: {"filename": "part.onnx"}}))
    assert refused(choice) == f"it has a part besides the decoder: {part}"


def test_a_pipeline_of_graphs_is_not_taken(examined: Callable[..., Choice]) -> None:
    choice = examined(configure=lambda model: model["decoder"].update(pipeline=[{"embed": {}}]))
    assert refused(choice) == "its decoder is a pipeline of graphs"


def test_a_cache_that_slides_is_not_taken(examined: Callable[..., Choice]) -> None:
    why = "its cache slides along with a window"
    window = {"window_size": 16, "slide_key_value_cache": False}
    choice = examined(configure=lambda model: model["decoder"].update(sliding_window=window))
    assert refused(choice) == why

    def slide(graph: GraphProto) -> None:
        set_attribute(only(graph, "GroupQueryAttention"), "sliding_window_cache", 1)

    assert refused(examined(Plan(window=16), slide)) == why


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_attention_is_not_taken(tmp_path: Path, dtype: str) -> None:
    directory = tiny.put(tmp_path / "made", Plan(grouped=False, dtype=dtype))
    assert refused(examine(directory, "cpu")) == "its attention is MultiHeadAttention"


def test_a_graph_without_attention_is_not_taken(examined: Callable[..., Choice]) -> None:
    choice = examined(change=lambda graph: graph.ClearField("node"))
    assert refused(choice) == "it has no GroupQueryAttention"


def test_attention_that_is_not_told_lengths_is_not_taken(examined: Callable[..., Choice]) -> None:
    def forget(graph: GraphProto) -> None:
        del only(graph, "GroupQueryAttention").input[5:]

    why = "its GroupQueryAttention is not told how long rows are"
    assert refused(examined(change=forget)) == why


def test_a_graph_that_chooses_by_the_whole_batch_is_not_taken(
    examined: Callable[..., Choice],
) -> None:
    """As for Phi-3, whose rotary tables are others beyond 4096 tokens."""

    def branch(graph: GraphProto) -> None:
        limit = numpy_helper.from_array(np.array(4096, np.int64), "limit")
        graph.initializer.append(limit)
        width = only(graph, "Gather").output[0]
        graph.node.insert(6, helper.make_node("Greater", [width, "limit"], ["is_long"]))
        tables = ["cos_cache", "sin_cache"]
        branches = {
            name: helper.make_graph(
                [helper.make_node("Identity", [t], [f"{name}_{t}"]) for t in tables],
                name,
                [],
                [helper.make_tensor_value_info(f"{name}_{t}", 1, None) for t in tables],
            )
            for name in ("then_branch", "else_branch")
        }
        graph.node.insert(7, helper.make_node("If", ["is_long"], ["cos", "sin"], **branches))
        for node in graph.node:
            if node.op_type == "GroupQueryAttention":
                node.input[7:9] = ["cos", "sin"]

    why = "its graph branches on what a whole batch is like (If)"
    assert refused(examined(change=branch)) == why


def test_products_that_round_rows_together_are_not_taken(examined: Callable[..., Choice]) -> None:
    def quantise(graph: GraphProto) -> None:
        states = only(graph, "SimplifiedLayerNormalization").output[0]
        outputs = ["quants", "scale", "zero"]
        graph.node.append(helper.make_node("DynamicQuantizeLinear", [states], outputs))

    why = "DynamicQuantizeLinear rounds the rows of a batch together"
    assert refused(examined(change=quantise)) == why


def test_position_ids_serve_rotation_only(examined: Callable[..., Choice]) -> None:
    def read(graph: GraphProto) -> None:
        node = helper.make_node("ReduceMax", ["position_ids"], ["longest"], keepdims=0)
        graph.node.append(node)

    choice = examined(Plan(positions=True), read)
    assert refused(choice) == "ReduceMax reads its position ids"


def test_position_ids_are_one_number_a_token(examined: Callable[..., Choice]) -> None:
    def widen(graph: GraphProto) -> None:
        describe(graph, "position_ids").shape.dim.add()

    choice = examined(Plan(positions=True), widen)
    assert refused(choice) == "its position ids are not one number a token"


@pytest.mark.parametrize(
    "name", ["past_sequence_length", "total_sequence_length", "cache_indirection", "block_table"]
)
def test_an_input_that_nobody_feeds_is_not_taken(
    examined: Callable[..., Choice], name: str
) -> None:
    def add(graph: GraphProto) -> None:
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT32, [1]))

    assert refused(examined(change=add)) == f"it has the input {name}"


def test_an_input_with_a_value_of_its_own_need_not_be_fed(examined: Callable[..., Choice]) -> None:
    def add(graph: GraphProto) -> None:
        graph.input.append(helper.make_tensor_value_info("cos_cache", TensorProto.FLOAT, [2048, 8]))

    taken(examined(change=add))


@pytest.mark.parametrize("shape", [[2048, "rank"], [2048, None]])
def test_one_that_adapters_may_give_makes_it_no_graph_for_batches(
    examined: Callable[..., Choice], shape: list[int | str | None]
) -> None:
    def add(graph: GraphProto) -> None:
        graph.input.append(helper.make_tensor_value_info("cos_cache", TensorProto.FLOAT, shape))

    assert refused(examined(change=add)) == "adapters may give its cos_cache"


def test_names_are_those_of_the_configuration(examined: Callable[..., Choice]) -> None:
    names = {
        "input_ids": "ids",
        "attention_mask": "mask",
        "position_ids": "places",
        "logits": "scores",
        **{f"past_key_values.{n}.{s}": f"past_{s}_{n}" for n in (0, 1) for s in ("key", "value")},
        **{f"present.{n}.{s}": f"now_{s}_{n}" for n in (0, 1) for s in ("key", "value")},
    }

    def rename(graph: GraphProto) -> None:
        for value in [*graph.input, *graph.output]:
            value.name = names[value.name]
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]

    def configure(model: dict[str, Any]) -> None:
        model["decoder"]["inputs"] = {
            "input_ids": "ids",
            "attention_mask": "mask",
            "position_ids": "places",
            "past_key_names": "past_key_%d",
            "past_value_names": "past_value_%d",
        }
        model["decoder"]["outputs"] = {
            "logits": "scores",
            "present_key_names": "now_key_%d",
            "present_value_names": "now_value_%d",
        }

    decoder = taken(examined(Plan(positions=True), rename, configure))
    said = (decoder.input_ids, decoder.attention_mask, decoder.position_ids, decoder.logits)
    assert said == ("ids", "mask", "places", "scores")
    assert decoder.past_keys == ("past_key_0", "past_key_1")
    assert decoder.present_values == ("now_value_0", "now_value_1")
    choice = examined(Plan(positions=True), rename)
    assert refused(choice) == "it has no input input_ids"


def test_names_left_out_are_those_that_onnxruntime_genai_assumes(
    examined: Callable[..., Choice],
) -> None:
    def forget(model: dict[str, Any]) -> None:
        del model["decoder"]["inputs"], model["decoder"]["outputs"]

    taken(examined(Plan(positions=True), configure=forget))


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "position_ids"])
def test_integers_have_64_bits(examined: Callable[..., Choice], name: str) -> None:
    def narrow(graph: GraphProto) -> None:
        describe(graph, name).elem_type = TensorProto.INT32

    assert refused(examined(Plan(positions=True), narrow)) == f"its {name} is not int64"


def detour_past(graph: GraphProto) -> None:
    graph.node.insert(0, helper.make_node("Identity", ["past_key_values.0.key"], ["past"]))
    only(graph, "GroupQueryAttention").input[3] = "past"


def detour_present(graph: GraphProto) -> None:
    only(graph, "GroupQueryAttention").output[1] = "present"
    graph.node.append(helper.make_node("Identity", ["present"], ["present.0.key"]))


def swap_layers(graph: GraphProto) -> None:
    first, second = (node for node in graph.node if node.op_type == "GroupQueryAttention")
    first.output[1], second.output[1] = second.output[1], first.output[1]


def measure_past(graph: GraphProto) -> None:
    graph.node.append(helper.make_node("Shape", ["past_key_values.0.key"], ["capacity"]))


def measure_present(graph: GraphProto) -> None:
    graph.node.append(helper.make_node("Shape", ["present.0.key"], ["capacity"]))


@pytest.mark.parametrize(
    "change", [detour_past, detour_present, swap_layers, measure_past, measure_present]
)
def test_a_cache_belongs_to_one_attention_and_nothing_else(
    examined: Callable[..., Choice], change: Change
) -> None:
    why = "its past_key_values.0.key does not go straight through a GroupQueryAttention"
    assert refused(examined(change=change)) == why


def test_each_attention_has_a_cache_of_its_own(examined: Callable[..., Choice]) -> None:
    def lend(graph: GraphProto) -> None:
        node = NodeProto()
        node.CopyFrom(only(graph, "GroupQueryAttention"))
        node.input[3:5] = ["cos_cache", "sin_cache"]
        node.output[:] = ["more"]
        graph.node.append(node)

    assert refused(examined(change=lend)) == "it has 3 attentions and 2 caches"


def test_rotary_tables_are_stored(examined: Callable[..., Choice]) -> None:
    def compute(graph: GraphProto) -> None:
        graph.node.insert(0, helper.make_node("Neg", ["cos_cache"], ["computed"]))
        for node in graph.node:
            if node.op_type in ("RotaryEmbedding", "GroupQueryAttention"):
                node.input[:] = ["computed" if n == "cos_cache" else n for n in node.input]

    for plan in (Plan(), Plan(positions=True)):
        assert refused(examined(plan, compute)) == "its rotary tables are computed"


def test_rows_are_as_long_as_the_mask_says(examined: Callable[..., Choice]) -> None:
    def forget_to_subtract(graph: GraphProto) -> None:
        only(graph, "Sub").op_type = "Mul"  # by one

    why = "the lengths of its rows are not those of its attention mask"
    assert refused(examined(change=forget_to_subtract)) == why


def test_attention_with_a_bias_is_not_taken(examined: Callable[..., Choice]) -> None:
    def bias(graph: GraphProto) -> None:
        only(graph, "GroupQueryAttention").input[10] = "cos_cache"

    assert refused(examined(change=bias)) == "its attention has a bias"


def test_a_cache_has_floats_of_two_kinds(examined: Callable[..., Choice]) -> None:
    def pack(graph: GraphProto) -> None:
        for value in [*graph.input, *graph.output]:
            if value.name.startswith(("past", "present")):
                value.type.tensor_type.elem_type = TensorProto.INT8

    assert refused(examined(change=pack)) == "its cache is int8"


def test_all_layers_have_caches_of_one_kind(examined: Callable[..., Choice]) -> None:
    def split_heads(graph: GraphProto) -> None:
        set_attribute(only(graph, "GroupQueryAttention"), "kv_num_heads", 4)
        for value in [*graph.input, *graph.output]:
            if value.name.startswith(("past_key_values.0", "present.0")):
                value.type.tensor_type.shape.dim[1].dim_value = 4

    def widen_heads(graph: GraphProto) -> None:
        describe(graph, "past_key_values.0.key").shape.dim[3].dim_value = 32

    def mix_dtypes(graph: GraphProto) -> None:
        describe(graph, "present.1.value").elem_type = TensorProto.FLOAT16

    for change in (split_heads, widen_heads, mix_dtypes):
        assert refused(examined(change=change)) == "its layers have caches of different kinds"


def test_a_cache_is_laid_out_by_heads(examined: Callable[..., Choice]) -> None:
    def by_token(graph: GraphProto) -> None:
        shape = describe(graph, "past_key_values.0.key").shape
        shape.dim[1].dim_value, shape.dim[2].dim_value = 128, 2

    def flat(graph: GraphProto) -> None:
        del describe(graph, "past_key_values.0.key").shape.dim[3]

    for change in (by_token, flat):
        assert refused(examined(change=change)) == "its cache is not laid out by heads"


def test_the_head_size_is_the_graphs_or_else_the_configurations(
    examined: Callable[..., Choice],
) -> None:
    def forget(model: dict[str, Any]) -> None:
        del model["decoder"]["head_size"]

    def tell(graph: GraphProto) -> None:
        for value in [*graph.input, *graph.output]:
            if value.name.startswith(("past", "present")):
                value.type.tensor_type.shape.dim[3].dim_value = 16

    assert refused(examined(configure=forget)) == "it does not say how large its heads are"
    assert taken(examined(change=tell, configure=forget)).head_size == 16


def test_logits_are_floats_of_a_known_number(examined: Callable[..., Choice]) -> None:
    def brain(graph: GraphProto) -> None:
        describe(graph, "logits").elem_type = TensorProto.BFLOAT16

    def flat(graph: GraphProto) -> None:
        del describe(graph, "logits").shape.dim[1]

    def unknown(graph: GraphProto) -> None:
        describe(graph, "logits").shape.dim[2].dim_param = "vocabulary"

    assert refused(examined(change=brain)) == "its logits are bfloat16"
    assert refused(examined(change=flat)) == "its logits have 2 dimensions"
    assert refused(examined(change=unknown)) == "it does not say how large its vocabulary is"


def test_a_graph_without_logits_is_not_taken(examined: Callable[..., Choice]) -> None:
    choice = examined(configure=lambda m: m["decoder"]["outputs"].update(logits="hidden_states"))
    assert refused(choice) == "it has no output hidden_states"


def test_other_outputs_do_no_harm(examined: Callable[..., Choice]) -> None:
    def tell(graph: GraphProto) -> None:
        states = only(graph, "SimplifiedLayerNormalization").output[0]
        graph.output.append(helper.make_tensor_value_info(states, TensorProto.FLOAT, None))

    taken(examined(change=tell))


def test_one_product_whose_lone_rows_differ_is_enough(examined: Callable[..., Choice]) -> None:
    def mix(graph: GraphProto) -> None:
        set_attribute(only(graph, "MatMulNBits"), "accuracy_level", 4)

    assert taken(examined(Plan(bits=4), mix)).least_rows == 2
    assert taken(examined(Plan(bits=4, accuracy_level=1))).least_rows == 2
    assert taken(examined(Plan(bits=4, accuracy_level=4))).least_rows == 1


@pytest.mark.parametrize("content", [None, b"{", b"{}", b'{"model": {"decoder": 1}}'])
def test_a_configuration_that_is_none_is_a_load_error(
    tmp_path: Path, content: bytes | None
) -> None:
    directory = tiny.put(tmp_path / "made", Plan())
    (directory / "genai_config.json").unlink()
    if content is not None:
        (directory / "genai_config.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"genai_config\.json"):
        examine(directory, "cpu")


@pytest.mark.parametrize("content", [None, b"not a graph", b"\xff" * 64])
def test_what_is_no_onnx_file_is_a_load_error(tmp_path: Path, content: bytes | None) -> None:
    directory = tiny.put(tmp_path / "made", Plan())
    (directory / "model.onnx").unlink()
    if content is not None:
        (directory / "model.onnx").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"model\.onnx is not an ONNX file"):
        examine(directory, "cpu")


def test_weights_are_not_read(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "made", Plan())
    (directory / "model.onnx.data").unlink()
    taken(examine(directory, "cpu"))


def test_the_file_is_the_configurations(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "made", Plan())
    (directory / "model.onnx").rename(directory / "decoder.onnx")
    config = json.loads((directory / checkpoints.CONFIG).read_bytes())
    config["model"]["decoder"]["filename"] = "decoder.onnx"
    tiny.write_config(directory, config)
    assert taken(examine(directory, "cpu")).model == directory / "decoder.onnx"


def test_the_tiny_checkpoints_are_alike_at_every_run() -> None:
    once, again = (graphs.build(Plan(bits=4)).SerializeToString() for _ in range(2))
    assert once == again
    assert MICROSOFT in {node.domain for node in graphs.build(Plan()).graph.node}
