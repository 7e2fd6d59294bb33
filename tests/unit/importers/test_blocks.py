"""Repacked blocks hold what `gguf.quants` says the file holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.blocks import Form, Packed, is_lossless, pack
from lemonade_serve.importers.levels import FLOAT_TYPES, WHOLE_ZERO, block_size
from lemonade_serve.importers.weights import unpermuted
from tests.unit.importers.files import random_rows

EXACT = [
    (Type.Q4_0, Form.FOUR), (Type.Q4_0, Form.EIGHT), (Type.Q5_0, Form.EIGHT),
    (Type.Q8_0, Form.EIGHT), (Type.Q3_K, Form.EIGHT), (Type.Q6_K, Form.EIGHT),
    (Type.IQ4_NL, Form.EIGHT), (Type.IQ4_XS, Form.EIGHT), (Type.Q4_1, Form.FOUR_CORRECTED),
    (Type.Q4_K, Form.FOUR_CORRECTED),
]  # fmt: skip


def _rows(kind: Type, rows: int = 24, columns: int = 512) -> npt.NDArray[np.uint8]:
    return random_rows(np.random.default_rng(11), kind, rows, columns)


def unpack(packed: Packed, bits: int) -> npt.NDArray[np.float64]:
    """What MatMulNBits multiplies by, plus the correction: its documentation, in float64."""
    quants = packed.quants
    if bits == 4:
        quants = np.stack([quants & 15, quants >> 4], axis=-1).reshape(*quants.shape[:-1], -1)
    zeros = np.float64(1 << bits - 1) if packed.zeros is None else packed.zeros[..., None]
    values = (quants.astype(np.float64) - zeros) * packed.scales[..., None]
    if packed.correction is not None:
        values += packed.correction[..., None]
    result: npt.NDArray[np.float64] = values.reshape(len(values), -1)
    return result


def _relative_rms(got: npt.NDArray[np.float64], rows: npt.NDArray[np.uint8], kind: Type) -> float:
    expected = dequantize(rows, kind).astype(np.float64)
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize(("kind", "form"), EXACT)
def test_exact_forms_are_exact_to_float32(kind: Type, form: Form) -> None:
    rows = _rows(kind)
    packed = pack(rows, kind, form, "t")
    np.testing.assert_allclose(unpack(packed, form.bits), dequantize(rows, kind), atol=1e-7)
    assert packed.quants.shape[-1] * 8 // form.bits == block_size(kind)
    assert is_lossless(kind, form)


@pytest.mark.parametrize("kind", [Type.Q2_K, Type.Q4_1, Type.Q4_K, Type.Q5_1, Type.Q5_K])
def test_rounded_zero_points_cost_a_few_thousandths(kind: Type) -> None:
    rows = _rows(kind)
    packed = pack(rows, kind, Form.EIGHT_ZERO, "t")
    assert packed.zeros is not None
    # A 16th (4 bit) or an 8th (5 bit) of a step, rounded, against weights of some steps.
    assert _relative_rms(unpack(packed, 8), rows, kind) < 4.5e-3
    assert not is_lossless(kind, Form.EIGHT_ZERO)


@pytest.mark.parametrize("kind", sorted(FLOAT_TYPES))
def test_floats_cost_half_a_hundredth(kind: Type) -> None:
    rows = _rows(kind)
    assert _relative_rms(unpack(pack(rows, kind, Form.EIGHT, "t"), 8), rows, kind) < 6e-3
    assert not is_lossless(kind, Form.EIGHT)


def _q4_1(scale: float, minimum: float) -> npt.NDArray[np.uint8]:
    """One block with the levels 0, 1, … 15 twice."""
    head = np.array([scale, minimum], np.float16).view(np.uint8)
    levels = np.arange(16, dtype=np.uint8)
    return np.concatenate([head, levels | levels << 4])[None]


@pytest.mark.parametrize(
    ("scale", "minimum"),
    [
        (0.01, -0.07),  # zero inside the range
        (0.01, 0.05),  # all positive
        (0.01, -0.4),  # all negative
        (0.01, 0.0),
        (0.001, 5.0),  # the minimum dwarfs the steps
        (0.001, -5.0),
        (0.0, 1.5),  # constant
        (0.0, -1.5),
        (0.0, 0.0),
        (-0.01, 0.07),  # nothing forbids it
    ],
)
def test_zero_points_of_unusual_blocks_stay_close(scale: float, minimum: float) -> None:
    rows = _q4_1(scale, minimum)
    expected = dequantize(rows, Type.Q4_1)
    got = unpack(pack(rows, Type.Q4_1, Form.EIGHT_ZERO, "t"), 8)
    span = max(float(expected.max()), 0.0) - min(float(expected.min()), 0.0)
    assert np.abs(got - expected).max() <= span / 255 * 0.51 + 1e-7


@pytest.mark.parametrize("kind", [*sorted(WHOLE_ZERO), Type.Q4_K, Type.F16])
def test_numbers_that_are_not_finite_are_refused(kind: Type) -> None:
    rows = np.full_like(_rows(kind, rows=1), 0xFF)
    form = Form.EIGHT_ZERO if kind is Type.Q4_K else Form.EIGHT
    with pytest.raises(UnsupportedModel, match=r"'blk\.0\.x' holds numbers that are not finite"):
        pack(rows, kind, form, "blk.0.x")


def test_unpermuted_rows_undo_the_converter() -> None:
    heads, size = 3, 8
    rows = np.arange(heads * size)
    # convert_hf_to_gguf.py, LlamaModel.permute
    permuted = rows.reshape(heads, 2, size // 2).swapaxes(1, 2).reshape(-1)
    np.testing.assert_array_equal(permuted[unpermuted(len(rows), heads)], rows)
