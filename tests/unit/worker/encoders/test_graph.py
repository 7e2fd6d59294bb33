"""An encoder's graph: a tiny BERT with random weights, against the arithmetic written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, save_model

from lemonade_serve import errors
from lemonade_serve.hub.encoders import describe
from lemonade_serve.protocol.messages import Encoder, Load, TextPrompt
from lemonade_serve.worker.encoders.graph import EncoderGraph
from lemonade_serve.worker.encoders.opening import open_encoder
from lemonade_serve.worker.encoders.reading import Row
from tests.encoders import WIDTH, put

ROWS = [Row([2, 6, 3], [0] * 3), Row([2, 7, 9, 4, 12, 5, 3], [0, 0, 0, 0, 1, 1, 1]), Row([2], [0])]


def load(path: Path, encoder: Encoder, **said: Any) -> Load:
    usual = {
        "path": str(path),
        "execution_provider": "cpu",
        "threads": 1,
        "sequence_slots": 1,
        "kv_cache_tokens": 64,
        "prefill_chunk_tokens": 16,
        "turn_timeout_s": 1.0,
        "engine": "auto",
        "encoder": encoder,
    }
    return Load(**{**usual, **said})


def opened(path: Path, **changes: Any) -> EncoderGraph:
    encoder = msgspec.structs.replace(describe(path).encoder, **changes)
    return open_encoder(load(path, encoder), encoder)[0]


def alone(path: Path, row: Row) -> NDArray[np.float32]:
    """What ONNX Runtime gives for one row."""
    session = ort.InferenceSession(str(path / "onnx" / "model.onnx"))
    ids, types = np.array([row.ids]), np.array([row.types])
    mask = np.ones_like(ids)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    (output,) = session.run(None, feed)
    first: NDArray[np.float32] = output[0]
    return first


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("mean", lambda states: states.mean(axis=0)),
        ("cls", lambda states: states[0]),
        ("last", lambda states: states[-1]),
        ("max", lambda states: states.max(axis=0)),
    ],
)
def test_a_vector_is_made_of_those_of_its_own_tokens(
    tmp_path: Path, pooling: str, pooled: Any
) -> None:
    path = put(tmp_path / "embedder")
    found = opened(path, pooling=pooling).run(ROWS)
    for row, values in zip(ROWS, found, strict=True):
        np.testing.assert_allclose(values, pooled(alone(path, row)), atol=1e-6)


def test_rows_beside_it_change_nothing(tmp_path: Path) -> None:
    graph = opened(put(tmp_path / "embedder"))
    together = graph.run(ROWS)
    for row, values in zip(ROWS, together, strict=True):
        np.testing.assert_allclose(values, graph.run([row])[0], atol=1e-6)


def test_a_vector_is_cut_before_it_gets_its_length(tmp_path: Path) -> None:
    graph = opened(put(tmp_path / "embedder"))
    values = np.array([3.0, 4.0, 12.0], np.float32)
    assert graph.finish(values, 2).tolist() == pytest.approx([0.6, 0.8])
    assert graph.finish(values, None).tolist() == pytest.approx([3 / 13, 4 / 13, 12 / 13])
    kept = opened(put(tmp_path / "raw"), normalized=False)
    assert kept.finish(values, 2).tolist() == [3.0, 4.0]


def test_dimensions_are_those_that_there_are_or_that_were_trained_for(tmp_path: Path) -> None:
    graph = opened(put(tmp_path / "embedder"))
    for fine in (None, 1, WIDTH):
        graph.check(fine)
    with pytest.raises(errors.InvalidRequest, match="have 32 dimensions, and not 33") as raised:
        graph.check(33)
    assert raised.value.param == "dimensions"
    graph = opened(put(tmp_path / "trained"), dimensions=(8, 16))
    for fine in (8, 16, WIDTH):
        graph.check(fine)
    with pytest.raises(errors.InvalidRequest, match="trained for 8, 16, 32 dimensions"):
        graph.check(9)


def test_a_score_is_between_0_and_1_and_nothing_is_cut_of_it(tmp_path: Path) -> None:
    path = put(tmp_path / "ranker", labels=1)
    graph = opened(path)
    for row, values in zip(ROWS, graph.run(ROWS), strict=True):
        (logit,) = alone(path, row)
        assert values.tolist() == pytest.approx([1 / (1 + np.exp(-logit))])
        assert graph.finish(values, None) is values


def test_a_setting_may_allow_less_than_the_model_does(tmp_path: Path) -> None:
    path = put(tmp_path / "embedder", positions=64)
    encoder = describe(path).encoder
    _, reader, _ = open_encoder(load(path, encoder, encode_input_tokens=16), encoder)
    with pytest.raises(errors.ContextLengthExceeded, match=r"worker\.encode_input_tokens is 16"):
        reader.read(TextPrompt("a " * 20), None, truncate=False, named="input[0]")


def test_encoders_run_on_the_cpus_provider(tmp_path: Path) -> None:
    path = put(tmp_path / "embedder")
    encoder = describe(path).encoder
    with pytest.raises(errors.ModelLoadError, match="not on vitis"):
        open_encoder(load(path, encoder, execution_provider="vitis"), encoder)


@pytest.mark.parametrize(
    ("inputs", "outputs", "complaint"),
    [
        (["past_key_values.0.key"], {"last_hidden_state": 3}, "wants past_key_values.0.key"),
        (["attention_mask"], {"last_hidden_state": 3}, "no input input_ids"),
        (["input_ids"], {"logits": 2}, "gives logits"),
    ],
)
def test_a_graph_of_another_kind_cannot_be_loaded(
    tmp_path: Path, inputs: list[str], outputs: dict[str, int], complaint: str
) -> None:
    path = put(tmp_path / "embedder")
    given = [helper.make_tensor_value_info(i, TensorProto.INT64, ["r", "t"]) for i in inputs]
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["r", "t", "w"][:rank])
        for name, rank in outputs.items()
    ]
    nodes = [
        helper.make_node("Cast", [inputs[0]], [name], to=TensorProto.FLOAT) for name in outputs
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "other", given, made),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    save_model(model, str(path / "onnx" / "model.onnx"))
    with pytest.raises(errors.ModelLoadError, match=complaint):
        opened(path)
