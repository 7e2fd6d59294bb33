"""Adapters beside a checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.hub import adapters
from lemonade_serve.hub.catalog import DiskCatalog
from tests.unit.hub.graphs import put


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return put(tmp_path / "cache" / "small" / "int4")


@pytest.fixture
def catalog(tmp_path: Path) -> DiskCatalog:
    return DiskCatalog(tmp_path / "cache")


def add(path: Path, content: bytes = b"matrices") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_one_lies_in_a_folder_of_its_own_or_beside_the_graph(checkpoint: Path) -> None:
    folder = checkpoint / "adapters"
    add(folder / "pirate.onnx_adapter", b"1234")
    add(folder / "both.onnx_adapter")
    add(checkpoint / "both.onnx_adapter")
    add(checkpoint / "adapter_weights.onnx_adapter")
    found = adapters.find(checkpoint)
    assert [adapter.name for adapter in found] == ["adapter_weights", "both", "pirate"]
    assert found[1].path == str(folder / "both.onnx_adapter")
    assert found[2].bytes == 4
    assert found[2].modified_ns == (folder / "pirate.onnx_adapter").stat().st_mtime_ns


def test_what_is_no_adapter_is_none(checkpoint: Path) -> None:
    add(checkpoint / "adapters" / ".pirate.onnx_adapter")
    add(checkpoint / "adapters" / "pirate.safetensors")
    (checkpoint / "adapters" / "folder.onnx_adapter").mkdir()
    assert adapters.find(checkpoint) == ()
    assert adapters.misnamed(checkpoint) == []


def test_those_of_pictures_and_speech_are_the_models_own(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "genai_config.json").read_bytes())
    config["model"]["vision"] = {"adapter_filename": "vision.onnx_adapter"}
    config["model"]["speech"] = {"filename": "speech.onnx"}
    (checkpoint / "genai_config.json").write_text(json.dumps(config))
    add(checkpoint / "vision.onnx_adapter")
    add(checkpoint / "pirate.onnx_adapter")
    assert [adapter.name for adapter in adapters.find(checkpoint)] == ["pirate"]


def test_one_that_cannot_be_named_is_left_out_and_told(
    catalog: DiskCatalog, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [add(checkpoint / "adapters" / f"{n}.onnx_adapter") for n in ("a b", "int8", "npu")]
    (info,) = catalog.list()
    assert info.adapters == ()
    assert adapters.misnamed(checkpoint) == paths
    assert "adapters_misnamed" in capsys.readouterr().out


def test_they_come_and_go_while_the_catalogue_is_there(
    catalog: DiskCatalog, checkpoint: Path
) -> None:
    bare = catalog.find("small", "auto")
    assert (bare.adapters, catalog.adapters(bare)) == ((), ())
    path = add(checkpoint / "adapters" / "pirate.onnx_adapter")
    info = catalog.find("small", "auto")
    assert [adapter.name for adapter in info.adapters] == ["pirate"]
    assert catalog.adapters(bare) == info.adapters
    assert info.capabilities == (*bare.capabilities, "adapters")
    path.unlink()
    assert catalog.find("small", "auto") == bare


def test_they_take_disk_and_no_memory_before_they_are_used(
    catalog: DiskCatalog, tmp_path: Path
) -> None:
    checkpoint = put(tmp_path / "cache" / "small" / "int4")
    bare = catalog.find("small", "auto")
    add(checkpoint / "adapters" / "pirate.onnx_adapter", bytes(5000))
    for one in (catalog, DiskCatalog(tmp_path / "cache")):
        info = one.find("small", "auto")
        assert info.bytes == bare.bytes + 5000
        assert info.memory_bytes == bare.memory_bytes


def test_an_adapter_is_found_in_the_dtype_that_has_it(
    catalog: DiskCatalog, checkpoint: Path
) -> None:
    other = put(checkpoint.parent / "fp32", "fp32")
    add(other / "adapters" / "pirate.onnx_adapter")
    assert catalog.find("small", "auto").dtype == "int4"
    assert catalog.find("small", "auto", adapter="pirate").dtype == "fp32"
    assert catalog.find("small", "fp32", adapter="pirate").dtype == "fp32"
    with pytest.raises(errors.AdapterNotFound, match="no adapter 'pirate'; it has none"):
        catalog.find("small", "int4", adapter="pirate")
    with pytest.raises(errors.DeviceUnavailable):
        catalog.find("small", "fp16", adapter="pirate")
    with pytest.raises(errors.ModelNotFound, match="no model 'tall'"):
        catalog.find("tall", "auto", adapter="pirate")


def test_an_unknown_adapter_is_an_error_that_says_which_there_are(
    catalog: DiskCatalog, checkpoint: Path
) -> None:
    for name in ("pirate", "formal"):
        add(checkpoint / "adapters" / f"{name}.onnx_adapter")
    with pytest.raises(errors.AdapterNotFound, match="'lazy'; it has: formal, pirate") as raised:
        catalog.find("small", "auto", adapter="lazy")
    assert raised.value.param == "model"
