"""Every architecture computes what transformers computes of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

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
