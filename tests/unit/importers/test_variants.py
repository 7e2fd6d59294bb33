"""Every architecture computes what transformers computes of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Type

from tests.unit.importers.files import HEAD_SIZE, HIDDEN, KV_HEADS, LAYERS, Model
from tests.unit.importers.session import import_model
from tests.unit.importers.variants import IDS, LISTED, VARIANTS

_REFERENCE = Path(__file__).parents[2] / "data" / "architectures.json"
_TOLERANCE = 2e-5  # of logits between -2 and 2


@pytest.fixture(scope="module")
def reference() -> dict[str, npt.NDArray[np.float64]]:
    content = json.loads(_REFERENCE.read_bytes())
    assert content["ids"] == IDS
    assert content["logits"].keys() == VARIANTS.keys()
    return {name: np.array(rows) for name, rows in content["logits"].items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_fp32_is_the_reference_at_every_position(
    name: str, reference: dict[str, npt.NDArray[np.float64]], tmp_path: Path
) -> None:
    report, session = import_model(VARIANTS[name](), tmp_path, "fp32")
    said = [session.logits([token])[-LISTED:] for token in IDS]
    np.testing.assert_allclose(said, reference[name], rtol=0, atol=_TOLERANCE)
    assert report.requantised == 0


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("length", [1, 6, 12, len(IDS)])
def test_a_prompt_in_one_go_and_what_follows_are_the_reference(
    name: str, length: int, reference: dict[str, npt.NDArray[np.float64]], tmp_path: Path
) -> None:
    _, session = import_model(VARIANTS[name](), tmp_path, "fp32")
    said = [session.logits(IDS[:length])[-LISTED:]]
    said += [session.logits([token])[-LISTED:] for token in IDS[length:]]
    np.testing.assert_allclose(said, reference[name][length - 1 :], rtol=0, atol=_TOLERANCE)


def _exact(model: Model, folder: Path) -> npt.NDArray[np.float32]:
    """Logits of the same weights in a file of floats."""
    folder.mkdir()
    floats = Model(model.architecture, Type.F32, tied="output.weight" not in model.tensors)
    floats.tensors = {
        name: (Type.F32, values.shape, values.view(np.uint8))
        for name, values in model.floats().items()
    }
    _, session = import_model(floats, folder, "fp32")
    return session.logits(IDS)


@pytest.mark.parametrize("architecture", ["granite", "phi3", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (Type.Q4_0, "auto"), (Type.Q4_1, "auto"), (Type.Q4_1, "int4"), (Type.Q4_K, "auto"),
        (Type.Q4_K, "int4"), (Type.Q5_K, "auto"), (Type.Q6_K, "auto"), (Type.Q8_0, "auto"),
        (Type.F16, "auto"), (Type.Q4_K, "fp32"), (Type.Q6_K, "fp32"),
    ],
)  # fmt: skip
def test_quantised_files_stay_close_to_what_they_hold(
    architecture: str, kind: Type, dtype: str, tmp_path: Path
) -> None:
    model = Model(architecture, kind, tied=False)
    _, session = import_model(model, tmp_path, dtype)
    _assert_close(session.logits(IDS), _exact(model, tmp_path / "exact"), dtype)


@pytest.mark.parametrize("architecture", ["granite", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["auto", "int4", "fp32"])
def test_values_of_another_type_than_queries_and_keys_are_as_good(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    """So it is in every file of a Q4_K_M."""
    model = Model(architecture, Type.Q4_K, tied=False)
    for index in range(LAYERS):
        name = f"blk.{index}.attn_v.weight"
        model.add(name, KV_HEADS * HEAD_SIZE, HIDDEN, kind=Type.Q6_K)
    _, session = import_model(model, tmp_path, dtype)
    _assert_close(session.logits(IDS), _exact(model, tmp_path / "exact"), dtype)


def _assert_close(
    said: npt.NDArray[np.float32], exact: npt.NDArray[np.float32], dtype: str
) -> None:
    error = float(np.sqrt(np.mean((said - exact) ** 2)) / np.std(exact))
    # Activations are rounded to int8 at every matrix, but in fp32: about a percent each. Blocks of
    # random bytes lie all on one side of zero, which real ones do not, and weigh more.
    assert error < (1e-4 if dtype == "fp32" else 0.15)
