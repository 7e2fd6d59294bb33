"""`lemonade-serve pull` of encoders, as sentence-transformers and transformers.js lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests import encoders
from tests.acceptance.test_encoders import TEXTS, cosines, embedded, reference
from tests.acceptance.test_pull import Machine
from tests.daemon import Daemon
from tests.hub import Hub

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
NAME = "org/tiny"
NEVER = b"nobody asks for it"


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, bytes]:
    """A repository with a graph in float32, with weights outside of it, and one in 8 bits."""
    path = encoders.put(tmp_path / "tiny")
    graph = path / "onnx" / "model.onnx"
    quantize_dynamic(graph, path / "onnx" / "model_quantized.onnx", weight_type=QuantType.QUInt8)
    onnx.save_model(
        onnx.load(str(graph)),
        str(graph),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    return files(path)


def test_what_sentence_transformers_has_is_served_as_it_is(
    machine: Machine, encoders_dir: Path, tmp_path: Path
) -> None:
    wanted = files(encoders_dir / encoders.MINILM)
    others = ("onnx/model_O4.onnx", "onnx/model_qint8_avx512.onnx", "openvino/openvino_model.bin")
    machine.hub.add(
        MINILM, {**wanted, **dict.fromkeys((*others, "model.safetensors", "README.md"), NEVER)}
    )
    answer = machine.pulled(MINILM)
    assert (answer["model"], answer["dtype"], answer["new"]) == (MINILM, "fp32", True)
    assert files(Path(answer["path"])) == wanted
    assert all(asked.path.endswith(tuple(wanted)) for asked in machine.hub.downloads())
    source = json.loads(Path(answer["path"], "provenance.json").read_bytes())["source"]
    assert {file["path"] for file in source["files"]} == wanted.keys()
    assert machine.pulled(MINILM)["new"] is False

    with Daemon.start(tmp_path, {"LEMONADE_CACHE_DIR": str(machine.cache)}) as daemon:
        vectors, _ = embedded(daemon, TEXTS, model=MINILM)
    assert cosines(vectors, reference()).min() > 1 - 1e-4


def test_dtypes_stand_beside_each_other(machine: Machine, tiny: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny)
    usual, packed = machine.pulled(NAME), machine.pulled(NAME, "--dtype", "int8")
    assert (usual["dtype"], packed["dtype"]) == ("fp32", "int8")
    graphs = {"onnx/model.onnx", "onnx/model.onnx_data"}
    assert files(Path(usual["path"])).keys() == tiny.keys() - {"onnx/model_quantized.onnx"}
    assert files(Path(packed["path"])).keys() == tiny.keys() - graphs


def test_a_graph_that_is_named_is_taken(machine: Machine, tiny: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny)
    answer = machine.pulled(NAME, "--include", "onnx/model_q*")
    assert answer["dtype"] == "int8"
    assert "config.json" in files(Path(answer["path"]))


def test_a_reranker_is_pulled_and_asked(machine: Machine, tmp_path: Path) -> None:
    path = encoders.put(tmp_path / "ranker", labels=1)
    machine.hub.add(NAME, files(path))
    machine.pulled(NAME)
    with Daemon.start(tmp_path, {"LEMONADE_CACHE_DIR": str(machine.cache)}) as daemon:
        body = {"model": NAME, "query": "sour", "documents": ["a lemon", "sugar"]}
        answer = daemon.client.post("/v1/rerank", json=body).raise_for_status().json()
    assert len(answer["results"]) == 2


def test_offline_the_same_is_published(machine: Machine, tiny: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny)
    first = files(Path(machine.pulled(NAME)["path"]))
    machine.environment["HF_HUB_OFFLINE"] = "1"
    machine.environment["LEMONADE_CACHE_DIR"] = str(machine.cache / "other")
    asked = len(machine.hub.asked)
    again = machine.pulled(NAME)
    assert (again["new"], files(Path(again["path"]))) == (True, first)
    assert len(machine.hub.asked) == asked


def test_what_generates_is_refused_before_the_first_byte(machine: Machine) -> None:
    said = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    graphs = dict.fromkeys(("onnx/model.onnx", "onnx/model_q4.onnx", "tokenizer.json"), NEVER)
    machine.hub.add(NAME, {"config.json": json.dumps(said).encode(), **graphs})
    code, _, complaint = machine.pull(NAME)
    assert (code, machine.hub.downloads()) == (1, [])
    assert "genai_config.json" in complaint


@pytest.mark.parametrize("what", ["labels", "weights"])
def test_what_cannot_be_served_is_not_published(
    machine: Machine, tiny: dict[str, bytes], tmp_path: Path, what: str
) -> None:
    del tiny["onnx/model.onnx_data"]
    many = files(encoders.put(tmp_path / "many", labels=3))
    machine.hub.add(NAME, many if what == "labels" else tiny)
    code, _, complaint = machine.pull(NAME)
    assert code == 1
    assert {"labels": "3 labels", "weights": "model.onnx_data"}[what] in complaint
    assert machine.left() == []


def test_a_removal_takes_all_of_it(machine: Machine, tiny: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny)
    machine.pulled(NAME)
    code, _, complaint = machine.run("rm", NAME)
    assert code == 0, complaint
    assert machine.left() == []
    assert [path for path in machine.home.rglob("*") if path.suffix in (".onnx", ".json")] == []
