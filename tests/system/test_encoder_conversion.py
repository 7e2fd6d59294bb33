"""Encoders in safetensors, converted by the real optimum in an environment of its own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lemonade_serve.domain.provenance import Closeness
from tests import encoders
from tests.acceptance.test_encoders import RERANKED, TEXTS, cosines, embedded, reference
from tests.daemon import Daemon
from tests.hub import running
from tests.system.test_conversion import Converter

pytestmark = pytest.mark.system
StartDaemon = Callable[..., Daemon]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
DTYPES = {"fp32": 1e-4, "int8": 0.01}
"""With how much less than 1 the cosine of any text may be."""


@pytest.fixture(scope="module")
def converter(encoder_exporter: str, tmp_path_factory: pytest.TempPathFactory) -> Converter:
    made = Converter("", tmp_path_factory.mktemp("encoders"))
    made.environment["LEMONADE_CONVERT__ENCODER_PYTHON"] = encoder_exporter
    return made


@pytest.fixture(scope="module")
def minilm(converter: Converter, minilm_zip: Path) -> dict[str, Any]:
    """The real one, pulled from a hub that has only its weights; what `pull` said of each dtype."""
    with zipfile.ZipFile(minilm_zip) as archive:
        files = {n: archive.read(n) for n in archive.namelist() if not n.endswith("/")}
    with running() as hub:
        hub.add(MINILM, {**files, "README.md": b"?", "pytorch_model.bin": b"pickle"})
        answers = {
            dtype: converter.run("pull", MINILM, "--dtype", dtype, HF_ENDPOINT=hub.url)
            for dtype in DTYPES
        }
        again = converter.run("pull", MINILM, HF_ENDPOINT=hub.url)
    assert again["new"] is False
    for answer in answers.values():
        provenance = json.loads(Path(answer["path"], "provenance.json").read_bytes())
        assert {file["path"] for file in provenance["source"]["files"]} == files.keys()
    return answers


def closeness(path: str) -> Closeness:
    said = json.loads(Path(path, "provenance.json").read_bytes())["conversion"]
    assert any(program.startswith("optimum-onnx ") for program in said["programs"])
    return msgspec.convert(said["closeness"], Closeness)


def test_a_real_one_gives_the_vectors_of_sentence_transformers(
    minilm: dict[str, Any], start_daemon: StartDaemon, converter: Converter
) -> None:
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(converter.cache))
    for dtype, error in DTYPES.items():
        answer, model = minilm[dtype], f"{MINILM}:{dtype}"
        assert (answer["model"], answer["dtype"], answer["new"]) == (MINILM, dtype, True)
        assert closeness(answer["path"]).error <= error
        together, _ = embedded(daemon, TEXTS, model=model)
        assert cosines(together, reference()).min() > 1 - error
        apart = np.stack([embedded(daemon, text, model=model)[0][0] for text in TEXTS[:20]])
        assert np.abs(together[:20] - apart).max() < 1e-6


def test_rerankers_give_the_scores_of_transformers(
    converter: Converter, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    for kind, dtype, error in (("bert", "fp32", 1e-5), ("xlm-roberta", "fp16", 1e-3)):
        source = encoders.put_weights(tmp_path / f"{kind}-ranker", kind, labels=1)
        answer = converter.run("convert", str(source), "--dtype", dtype)
        assert (answer["dtype"], answer["check"]["texts"] > 5) == (dtype, True)
        assert closeness(answer["path"]).error < error
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(converter.cache))
    for query, document, score in RERANKED:
        body = {"model": "bert-ranker", "query": query, "documents": [document]}
        told = daemon.client.post("/v1/rerank", json=body).raise_for_status().json()
        assert told["results"][0]["relevance_score"] == pytest.approx(score, abs=1e-5)


def test_one_that_is_far_from_its_source_is_refused(encoder_exporter: str, tmp_path: Path) -> None:
    converter = Converter("", tmp_path)
    converter.environment["LEMONADE_CONVERT__ENCODER_PYTHON"] = encoder_exporter
    for name, labels, setting in (("a", 0, "MIN_COSINE"), ("b", 1, "MAX_SCORE_ERROR")):
        source = encoders.put_weights(tmp_path / name, "xlm-roberta", labels=labels)
        bound = {f"LEMONADE_CONVERT__{setting}": "0" if labels else "1"}
        said = converter.fail("convert", str(source), "--dtype", "int8", **bound)
        assert "the checkpoint is no good" in said
        assert f"convert.{setting.lower()}" in said


def test_a_classifier_of_many_labels_is_refused(encoder_exporter: str, tmp_path: Path) -> None:
    converter = Converter("", tmp_path)
    converter.environment["LEMONADE_CONVERT__ENCODER_PYTHON"] = encoder_exporter
    source = encoders.put_weights(tmp_path / "many", labels=3)
    assert "3 labels" in converter.fail("convert", str(source))
