"""Which files of an encoder's repository are fetched."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.selection import Kind, Selection, Wanted, select
from lemonade_serve.protocol.jobs import Repository, RepositoryFile

DESCRIBING = [
    *("1_Pooling/config.json", "config.json", "config_sentence_transformers.json", "modules.json"),
    *("sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json"),
    "tokenizer_config.json",
]
OTHERS = [
    *(".gitattributes", "README.md", "data_config.json", "model.safetensors", "pytorch_model.bin"),
    *("rust_model.ot", "tf_model.h5", "train_script.py", "vocab.txt", "2_Dense/model.safetensors"),
    *("openvino/openvino_model.bin", "openvino/openvino_model.xml"),
]
SENTENCE_TRANSFORMERS = [
    *(f"onnx/model{suffix}.onnx" for suffix in ("", "_O1", "_O2", "_O3", "_O4")),
    *(f"onnx/model_qint8_{target}.onnx" for target in ("arm64", "avx512", "avx512_vnni")),
    "onnx/model_quint8_avx2.onnx",
]
TRANSFORMERS_JS = [
    f"onnx/model{suffix}.onnx"
    for suffix in ("", "_bnb4", "_fp16", "_int8", "_q4", "_q4f16", "_quantized", "_uint8")
]
LARGE = [
    *("onnx/Constant_7_attr__value", "onnx/config.json", "onnx/model.onnx", "onnx/model.onnx_data"),
    *("onnx/model.onnx_data_1", "onnx/model_fp16.onnx", "onnx/model_fp16.onnx_data"),
    *("onnx/sentencepiece.bpe.model", "onnx/tokenizer.json"),
]


def choose(
    graphs: list[str], *, architecture: str = "BertModel", without: str = "", **wanted: object
) -> Selection:
    paths = sorted({*DESCRIBING, *OTHERS, *graphs} - {without})
    files = tuple(RepositoryFile(path, 10, sha256="0" * 64) for path in paths)
    listed = Repository(
        "org/model", "main", "c" * 40, files, architectures=(architecture,) if architecture else ()
    )
    return select(listed, Wanted(**wanted))  # type: ignore[arg-type]


def graphs(selection: Selection) -> list[str]:
    return [file.path for file in selection.files if file.path not in DESCRIBING]


def test_one_graph_is_fetched_with_all_that_describes_it() -> None:
    selection = choose(SENTENCE_TRANSFORMERS)
    assert (selection.kind, selection.folder) == (Kind.ONNX, "")
    assert sorted(file.path for file in selection.files) == [
        *DESCRIBING[:4],
        "onnx/model.onnx",
        *DESCRIBING[4:],
    ]


@pytest.mark.parametrize(
    ("repository", "dtype", "graph"),
    [
        (SENTENCE_TRANSFORMERS, "auto", "onnx/model.onnx"),
        (SENTENCE_TRANSFORMERS, "fp32", "onnx/model.onnx"),
        (SENTENCE_TRANSFORMERS, "fp16", "onnx/model_O4.onnx"),
        (SENTENCE_TRANSFORMERS, "int8", "onnx/model_quint8_avx2.onnx"),
        (TRANSFORMERS_JS, "auto", "onnx/model.onnx"),
        (TRANSFORMERS_JS, "fp16", "onnx/model_fp16.onnx"),
        (TRANSFORMERS_JS, "int8", "onnx/model_quantized.onnx"),
        (TRANSFORMERS_JS, "int4", "onnx/model_q4.onnx"),
        (["model.onnx", "model_quantized.onnx"], "int8", "model_quantized.onnx"),
        (["model.onnx", "onnx/model.onnx"], "auto", "onnx/model.onnx"),
    ],
)
def test_a_graph_is_chosen_by_its_dtype(repository: list[str], dtype: str, graph: str) -> None:
    assert graphs(choose(repository, dtype=dtype)) == [graph]


def test_weights_outside_of_a_graph_come_with_it_and_those_of_others_do_not() -> None:
    weights = ["onnx/Constant_7_attr__value", "onnx/model.onnx", "onnx/model.onnx_data"]
    assert graphs(choose(LARGE)) == [*weights, "onnx/model.onnx_data_1"]
    assert graphs(choose(LARGE, dtype="fp16")) == [
        *("onnx/Constant_7_attr__value", "onnx/model_fp16.onnx", "onnx/model_fp16.onnx_data")
    ]
    beside = ["model.onnx", "model.onnx.data", "model_q4.onnx"]
    assert graphs(choose(beside)) == beside[:2]


def test_a_pattern_chooses_a_graph_and_keeps_what_describes_it() -> None:
    selection = choose(TRANSFORMERS_JS, include=("*bnb4*",))
    assert graphs(selection) == ["onnx/model_bnb4.onnx"]
    assert len(selection.files) == 1 + len(DESCRIBING)
    chosen = choose(SENTENCE_TRANSFORMERS, include=("*qint8*",), dtype="int8")
    assert graphs(chosen) == ["onnx/model_qint8_avx512_vnni.onnx"]


def test_the_only_graph_may_be_called_anything_and_be_anything() -> None:
    for dtype in ("auto", "int8"):
        assert graphs(choose(["onnx/minilm.onnx"], dtype=dtype)) == ["onnx/minilm.onnx"]
    assert graphs(choose(["onnx/model_quantized.onnx"])) == ["onnx/model_quantized.onnx"]


@pytest.mark.parametrize("dtype", ["int4", "bf16"])
def test_a_dtype_that_it_has_not_is_an_error_that_says_what_it_has(dtype: str) -> None:
    with pytest.raises(
        errors.DeviceUnavailable, match=rf"no ONNX graph in {dtype}.*model_O4\.onnx \(fp16\)"
    ):
        choose(SENTENCE_TRANSFORMERS, dtype=dtype)
    with pytest.raises(errors.DeviceUnavailable, match=r"in int4.*model_int8\.onnx \(int8\)"):
        choose(["onnx/model_int8.onnx"], dtype="int4")


def test_a_classifier_is_chosen_too() -> None:
    chosen = choose(
        SENTENCE_TRANSFORMERS,
        architecture="BertForSequenceClassification",
        without="modules.json",
    )
    assert graphs(chosen) == ["onnx/model.onnx"]


def test_what_generates_is_no_encoder_unless_sentence_transformers_made_it_one() -> None:
    llama = "LlamaForCausalLM"
    assert graphs(choose(TRANSFORMERS_JS, architecture=llama)) == ["onnx/model.onnx"]
    bare = [*TRANSFORMERS_JS, "config.json", "tokenizer.json", "generation_config.json"]
    files = tuple(RepositoryFile(path, 10) for path in bare)
    listed = Repository("org/model", "main", "c" * 40, files, architectures=(llama,))
    with pytest.raises(
        errors.UnsupportedModel, match=r"without the genai_config\.json.*generate nothing"
    ):
        select(listed, Wanted())


def test_gguf_files_beside_an_encoders_graphs_are_left_to_those_who_ask_for_them() -> None:
    both = [*SENTENCE_TRANSFORMERS, "gguf/model-Q8_0.gguf"]
    assert choose(both).kind is Kind.ONNX
    assert choose(both, include=("*.gguf",)).kind is Kind.GGUF


def test_weights_without_a_graph_are_exported_if_they_are_an_encoders() -> None:
    selection = choose([], architecture="XLMRobertaForSequenceClassification")
    assert selection.kind is Kind.ENCODER
    assert selection.files[0].path == "config.json"
    assert {file.path for file in selection.files} == {*DESCRIBING, "model.safetensors"}
    for architecture, modules, kind in (
        ("BertModel", "modules.json", Kind.ENCODER),
        ("Qwen3ForCausalLM", "", Kind.ENCODER),
        ("Qwen3ForCausalLM", "modules.json", Kind.SAFETENSORS),
        ("", "modules.json", Kind.SAFETENSORS),
    ):
        assert choose([], architecture=architecture, without=modules).kind is kind


def test_weights_beside_graphs_are_exported_for_those_who_name_them() -> None:
    chosen = choose(SENTENCE_TRANSFORMERS, include=("model.safetensors",), dtype="int8")
    assert chosen.kind is Kind.ENCODER


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_graph_that_nothing_describes_is_refused(missing: str) -> None:
    with pytest.raises(errors.UnsupportedModel):
        choose(SENTENCE_TRANSFORMERS, without=missing)
