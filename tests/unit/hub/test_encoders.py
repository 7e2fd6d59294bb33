"""Encoders on disk, as sentence-transformers and optimum lay them out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo, Task
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.hub.encoders import weighs
from lemonade_serve.protocol.messages import Encoder
from tests.encoders import put, put_weights, write


def found(root: Path, name: str = "embedder") -> CheckpointInfo:
    return DiskCatalog(root).find(name, "auto")


def encoder(root: Path) -> Encoder:
    told = found(root).encoder
    assert told is not None
    return told


def edit(file: Path, **changes: Any) -> None:
    said = json.loads(file.read_bytes())
    write(file, {**said, **changes})


def put_graph(
    file: Path, nodes: list[Any], outputs: list[str], weights: Any = (), inputs: Any = ()
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    taken, given = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 8]) for name in names]
        for names in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "tiny", taken, given, list(weights))
    onnx.save_model(helper.make_model(graph), str(file))


class TestReading:
    def test_an_embedding_model_is_a_checkpoint_with_that_task(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        info = found(tmp_path)
        assert (info.path, info.task, info.dtype) == (path, Task.EMBEDDING, "fp32")
        assert (info.architecture, info.context_length) == ("bert", 16)
        assert info.bytes == (path / "onnx" / "model.onnx").stat().st_size
        assert info.memory_bytes > 2 * info.bytes
        told = encoder(tmp_path)
        assert (told.graph, told.pooling, told.normalized) == ("onnx/model.onnx", "mean", True)
        assert (told.heads, told.width, told.alone) == (4, 4 * 32 + 2 * 64, False)

    def test_a_classifier_with_one_label_reranks(self, tmp_path: Path) -> None:
        put(tmp_path / "org" / "ranker", labels=1, file="model.onnx")
        info = found(tmp_path, "org/ranker")
        assert info.task is Task.RERANK
        assert info.encoder is not None
        assert (info.encoder.graph, info.encoder.pooling) == ("model.onnx", "none")

    def test_it_is_listed_beside_what_generates(self, tmp_path: Path) -> None:
        put(tmp_path / "embedder" / "fp32")
        put(tmp_path / "ranker", labels=1)
        assert [info.name for info in DiskCatalog(tmp_path).list()] == ["embedder", "ranker"]

    @pytest.mark.parametrize(
        ("said", "pooling"),
        [
            ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
            ({"pooling_mode_lasttoken": True}, "last"),
            ({"pooling_mode_max_tokens": True}, "max"),
            ({"pooling_mode": "cls", "embedding_dimension": 32}, "cls"),
            ({"pooling_mode": "lasttoken"}, "last"),
        ],
    )
    def test_how_it_pools_is_as_any_release_of_sentence_transformers_wrote_it(
        self, tmp_path: Path, said: dict[str, Any], pooling: str
    ) -> None:
        write(put(tmp_path / "embedder") / "1_Pooling" / "config.json", said)
        assert encoder(tmp_path).pooling == pooling

    def test_modules_are_known_by_the_last_part_of_their_type(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        prefix = "sentence_transformers.sentence_transformer.modules"
        kinds = {"": "transformer.Transformer", "1_Pooling": "pooling.Pooling"}
        write(
            path / "modules.json",
            [{"path": at, "type": f"{prefix}.{kind}"} for at, kind in kinds.items()],
        )
        assert encoder(tmp_path).normalized is False

    def test_without_modules_it_is_the_mean_of_length_1(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder", pooling="cls_token", normalize=False)
        assert (encoder(tmp_path).pooling, encoder(tmp_path).normalized) == ("cls", False)
        (path / "modules.json").unlink()
        assert (encoder(tmp_path).pooling, encoder(tmp_path).normalized) == ("mean", True)

    def test_what_it_reads_at_most_is_the_least_that_is_said(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder", positions=64)
        write(path / "tokenizer_config.json", {"model_max_length": 1e30})
        assert encoder(tmp_path).max_tokens == 64
        write(path / "tokenizer_config.json", {"model_max_length": 48})
        assert encoder(tmp_path).max_tokens == 48
        write(path / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
        assert (encoder(tmp_path).max_tokens, encoder(tmp_path).lowercase) == (32, True)

    def test_robertas_count_positions_from_behind_their_padding(self, tmp_path: Path) -> None:
        put(tmp_path / "embedder", positions=514, model_type="xlm-roberta", pad_token_id=1)
        assert encoder(tmp_path).max_tokens == 512

    def test_prompts_and_trained_dimensions_are_told(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder", matryoshka_dimensions=[16, 8])
        prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
        write(path / "config_sentence_transformers.json", prompts)
        assert (encoder(tmp_path).prompt, encoder(tmp_path).dimensions) == ("query: ", (8, 16))

    def test_a_graph_that_pools_itself_is_left_to_it(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        node = helper.make_node("Identity", ["x"], ["sentence_embedding"])
        put_graph(path / "onnx" / "model.onnx", [node], ["sentence_embedding"])
        assert encoder(tmp_path).pooling == "none"

    def test_a_graph_that_scales_its_batch_together_is_told(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
        put_graph(path / "onnx" / "model.onnx", [node], ["last_hidden_state"])
        assert encoder(tmp_path).alone is True

    def test_weights_that_are_unpacked_before_use_are_what_they_are_stored_as(
        self, tmp_path: Path
    ) -> None:
        path = put(tmp_path / "embedder")
        weight = helper.make_tensor("w", TensorProto.INT8, [8, 8], bytes(64), raw=True)
        nodes = [
            helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "scale"], ["scaled"]),
            helper.make_node("MatMul", ["x", "scaled"], ["last_hidden_state"]),
        ]
        put_graph(path / "onnx" / "model.onnx", nodes, ["last_hidden_state"], [weight])
        assert found(tmp_path).dtype == "int8"

    def test_weights_outside_of_the_graph_count(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        graph = path / "onnx" / "model.onnx"
        model = onnx.load(str(graph))
        onnx.save_model(
            model, str(graph), save_as_external_data=True, location="weights", size_threshold=0
        )
        weights = path / "onnx" / "weights"
        assert found(tmp_path).bytes == graph.stat().st_size + weights.stat().st_size
        weights.unlink()
        with pytest.raises(errors.ModelLoadError, match=r"weights of model\.onnx are missing"):
            DiskCatalog(tmp_path).find("embedder", "auto")

    def test_the_only_graph_may_be_called_anything(self, tmp_path: Path) -> None:
        put(tmp_path / "embedder", file="onnx/model_O4.onnx")
        assert encoder(tmp_path).graph == "onnx/model_O4.onnx"

    def test_a_change_is_seen(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        catalog = DiskCatalog(tmp_path)
        before = catalog.find("embedder", "auto")
        assert catalog.find("embedder", "auto") is before
        os.utime(path / "onnx" / "model.onnx", ns=(0, 1 << 62))
        assert catalog.find("embedder", "auto").modified_s > before.modified_s


class TestPublishing:
    def test_an_encoder_that_could_not_be_served_is_not_published(self, tmp_path: Path) -> None:
        catalog = DiskCatalog(tmp_path / "cache")
        with catalog.staging() as staged:
            shutil.copytree(put(tmp_path / "many", labels=3), staged, dirs_exist_ok=True)
            with pytest.raises(errors.ModelLoadError, match="3 labels"):
                catalog.publish(staged, "many", "fp32")
        assert catalog.list() == []

    def test_weights_of_an_encoder_are_known_by_their_configuration(self, tmp_path: Path) -> None:
        assert weighs(put_weights(tmp_path / "ranker", labels=1))
        path = put_weights(tmp_path / "llama")
        edit(path / "config.json", architectures=["LlamaForCausalLM"])
        assert not weighs(path)
        write(path / "modules.json", [])
        assert weighs(path)
        with pytest.raises(errors.ModelLoadError, match="nothing"):
            weighs(tmp_path / "nothing")


class TestWhatIsMissing:
    def test_weights_without_a_graph_are_no_checkpoint_yet(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        (path / "onnx" / "model.onnx").unlink()
        with pytest.raises(errors.ModelLoadError, match=r"model\.onnx or .* is missing"):
            found(tmp_path)
        assert DiskCatalog(tmp_path).list() == []

    def test_the_tokenizer_is_named(self, tmp_path: Path) -> None:
        (put(tmp_path / "embedder") / "tokenizer.json").unlink()
        with pytest.raises(errors.ModelLoadError, match=r"embedder: .*tokenizer\.json"):
            found(tmp_path)

    def test_of_several_graphs_one_has_to_be_named(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder", file="onnx/a.onnx")
        (path / "onnx" / "b.onnx").write_bytes(b"")
        with pytest.raises(errors.ModelLoadError, match=r"onnx/a\.onnx, onnx/b\.onnx"):
            found(tmp_path)

    def test_a_classifier_of_many_labels_is_refused(self, tmp_path: Path) -> None:
        put(tmp_path / "embedder", labels=3)
        with pytest.raises(errors.ModelLoadError, match="3 labels"):
            found(tmp_path)

    def test_pooling_that_nobody_knows_is_refused(self, tmp_path: Path) -> None:
        put(tmp_path / "embedder", pooling="weightedmean_tokens")
        with pytest.raises(errors.ModelLoadError, match="weightedmean_tokens"):
            found(tmp_path)

    def test_modules_behind_the_graph_are_refused_by_name(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        write(path / "modules.json", [{"type": "models.Transformer"}, {"type": "models.Dense"}])
        with pytest.raises(errors.ModelLoadError, match="Dense"):
            found(tmp_path)

    def test_a_graph_that_keeps_what_it_has_read_is_refused(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        node = helper.make_node("Identity", ["input_ids"], ["last_hidden_state"])
        inputs = ["input_ids", "past_key_values.0.key"]
        put_graph(path / "onnx" / "model.onnx", [node], ["last_hidden_state"], (), inputs)
        with pytest.raises(errors.ModelLoadError, match=r"wants past_key_values\.0\.key"):
            found(tmp_path)

    def test_a_graph_that_gives_no_vectors_is_refused(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        put_graph(
            path / "onnx" / "model.onnx",
            [helper.make_node("Identity", ["x"], ["logits"])],
            ["logits"],
        )
        with pytest.raises(errors.ModelLoadError, match="gives logits"):
            found(tmp_path)

    def test_a_file_that_is_not_json_is_named(self, tmp_path: Path) -> None:
        (put(tmp_path / "embedder") / "modules.json").write_text("[")
        with pytest.raises(errors.ModelLoadError, match=r"modules\.json"):
            found(tmp_path)

    def test_what_generates_needs_its_own_configuration(self, tmp_path: Path) -> None:
        path = put(tmp_path / "embedder")
        (path / "modules.json").unlink()
        edit(path / "config.json", architectures=["LlamaForCausalLM"])
        with pytest.raises(errors.ModelNotFound):
            found(tmp_path)

    def test_any_directory_with_a_configuration_is_no_checkpoint(self, tmp_path: Path) -> None:
        write(tmp_path / "embedder" / "config.json", {})
        with pytest.raises(errors.ModelNotFound):
            found(tmp_path)
