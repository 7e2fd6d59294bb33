"""Which files of a repository are fetched."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.selection import Kind, Selection, Wanted, select
from lemonade_serve.protocol.jobs import Repository, RepositoryFile

PHI = [
    *("README.md", "config.json", "tokenizer.json"),
    *("cpu_and_mobile/cpu-int4-awq-block-128/" + n for n in ("genai_config.json", "model.onnx")),
    *("cpu_and_mobile/cpu-fp32/" + n for n in ("genai_config.json", "model.onnx")),
    *("cuda/cuda-fp16/" + n for n in ("genai_config.json", "model.onnx", "model.onnx.data")),
    *("directml/directml-int4-awq/" + n for n in ("genai_config.json", "model.onnx")),
]
GGUFS = [
    *("README.md", "model-Q8_0.gguf", "model-Q4_K_M.gguf", "model-IQ2_XS.gguf", "model-f16.gguf"),
    *("mmproj-model-f16.gguf", "model-imatrix.gguf"),
]


def choose(paths: list[str], *, name: str = "org/model", **wanted: object) -> Selection:
    files = tuple(RepositoryFile(path, 10, sha256="0" * 64) for path in paths)
    return select(Repository(name, "main", "c" * 40, files), Wanted(**wanted))  # type: ignore[arg-type]


def chosen(paths: list[str], **wanted: object) -> list[str]:
    return [file.path for file in choose(paths, **wanted).files]  # type: ignore[arg-type]


def test_a_variant_for_the_device_is_chosen_and_only_its_files() -> None:
    selection = choose(PHI)
    assert selection.kind is Kind.ONNX
    assert selection.folder == "cpu_and_mobile/cpu-int4-awq-block-128"
    assert [file.path for file in selection.files] == [
        "cpu_and_mobile/cpu-int4-awq-block-128/genai_config.json",
        "cpu_and_mobile/cpu-int4-awq-block-128/model.onnx",
    ]
    assert selection.bytes == 20


@pytest.mark.parametrize(
    ("providers", "dtype", "folder"),
    [
        (("cpu",), "fp32", "cpu_and_mobile/cpu-fp32"),
        (("cuda", "cpu"), "auto", "cuda/cuda-fp16"),
        (("dml", "cpu"), "auto", "directml/directml-int4-awq"),
        (("dml", "cpu"), "fp32", "cpu_and_mobile/cpu-fp32"),
        (("vitisai", "cpu"), "auto", "cpu_and_mobile/cpu-int4-awq-block-128"),
    ],
)
def test_the_preferred_device_that_has_one_in_the_dtype_gets_it(
    providers: tuple[str, ...], dtype: str, folder: str
) -> None:
    assert choose(PHI, providers=providers, dtype=dtype).folder == folder


def test_patterns_choose_where_a_device_would_not() -> None:
    assert choose(PHI, include=("cuda/*",)).folder == "cuda/cuda-fp16"


def test_a_device_or_a_dtype_that_it_has_not_is_an_error_that_says_what_it_has() -> None:
    with pytest.raises(errors.DeviceUnavailable, match="cuda/cuda-fp16"):
        choose([path for path in PHI if not path.startswith("cpu")])
    with pytest.raises(errors.DeviceUnavailable, match=r"no int8.*cpu-fp32"):
        choose(PHI, dtype="int8")


def test_a_repository_that_is_a_checkpoint_itself_leaves_out_what_is_none_of_it() -> None:
    paths = [
        *("genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "LICENSE"),
        *("README.md", ".gitattributes", "model.safetensors", "cover.png", "provenance.json"),
        *("other/genai_config.json", "other/model.onnx"),
    ]
    assert chosen(paths, include=("[!o]*",)) == paths[:5]
    selection = choose(paths, name="org/model-fp16", dtype="fp16")
    assert (selection.folder, len(selection.files)) == ("", 5)


def test_what_neither_folder_nor_name_says_may_be_right() -> None:
    assert choose(["genai_config.json", "model.onnx"], dtype="int8").folder == ""


@pytest.mark.parametrize(
    ("dtype", "file"),
    [
        ("auto", "model-Q4_K_M.gguf"),
        ("int4", "model-Q4_K_M.gguf"),
        ("int8", "model-Q8_0.gguf"),
        ("fp32", "model-f16.gguf"),
    ],
)
def test_a_gguf_file_is_chosen_by_its_dtype(dtype: str, file: str) -> None:
    selection = choose(GGUFS, dtype=dtype)
    assert (selection.kind, [f.path for f in selection.files]) == (Kind.GGUF, [file])


def test_a_gguf_file_that_is_alone_need_not_say_what_it_is() -> None:
    assert chosen(["model.gguf"]) == ["model.gguf"]


def test_a_pattern_chooses_a_gguf_file() -> None:
    assert chosen(GGUFS, include=("*f16.gguf",)) == ["model-f16.gguf"]


def test_gguf_files_that_cannot_be_imported_are_named() -> None:
    with pytest.raises(errors.DeviceUnavailable, match="IQ2_XS"):
        choose(GGUFS, include=("*IQ2*",))
    with pytest.raises(errors.DeviceUnavailable, match="fp16"):
        choose(GGUFS, dtype="fp16")
    with pytest.raises(errors.UnsupportedModel, match="in parts"):
        choose(["model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf"])


def test_of_what_has_to_be_converted_weights_and_what_describes_them_are_fetched() -> None:
    describing = ["config.json", "generation_config.json", "tokenizer.json"]
    others = ["README.md", "modeling_own.py", "pytorch_model.bin", "flax_model.msgpack"]
    assert chosen([*others, "model.safetensors", *describing]) == [
        *describing,
        "model.safetensors",
    ]
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "model.safetensors.index.json"
    whole = [*others, *parts, "consolidated.safetensors", index, *describing]
    assert chosen(whole) == [*describing, index, *parts]
    assert chosen(whole, include=("*.safetensors",)) == [*describing, index, *parts]
    assert choose(whole).kind is Kind.SAFETENSORS


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["onnx/model_q4.onnx", "config.json"], "without the genai_config.json.* tokenizer.json"),
        (["config.json", "model.safetensors"], "no tokenizer.json"),
        (["config.json", "tokenizer.json", "flax.safetensors"], "no model.safetensors"),
        (["README.md"], "README.md"),
        ([], "nothing"),
    ],
)
def test_what_cannot_be_served_says_why(paths: list[str], reason: str) -> None:
    with pytest.raises(errors.UnsupportedModel, match=reason):
        choose(paths)


def test_patterns_that_nothing_matches_are_an_error() -> None:
    with pytest.raises(errors.InvalidRequest, match=r"README\.md"):
        choose(PHI, include=("*.gguf",))
