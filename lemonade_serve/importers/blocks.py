"""GGUF blocks into the initialisers of `com.microsoft::MatMulNBits`, without a float in between.

Blocks come as `Levels`: small unsigned integers, one scale a block, and a whole zero or a float
minimum. Four forms are made of them:

- `EIGHT`: 8 bit, zero point 128 implied. Exact for whole zeros. Float matrices are rounded here,
  to 127 steps of the block's largest value (llama.cpp's Q8_0).
- `EIGHT_ZERO`: 8 bit with a uint8 zero point, for float minima. With z = -minimum/scale the levels
  are multiplied by t (16 for 4 bit, 8 for 5 bit, less where that does not fit) and t·z is rounded:
  only the minimum moves, by a 32nd of a step at most.
- `FOUR` (Q4_0) and `FOUR_CORRECTED` (Q4_1, Q4_K): the stored 4 bit with zero point 8. A float
  minimum becomes a correction c = minimum + 8·scale, added as blocksum(x)·c: exact.

A fifth, `FLOAT`, is the dequantised matrix.
"""

from __future__ import annotations

from enum import Enum

import msgspec
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.levels import WHOLE_ZERO, Bytes, Floats, Levels, take_apart


class Form(Enum):
    """How a matrix is stored in the checkpoint."""

    FLOAT = "float"
    EIGHT = "8 bit"
    EIGHT_ZERO = "8 bit, zero point"
    FOUR = "4 bit"
    FOUR_CORRECTED = "4 bit, correction"

    @property
    def bits(self) -> int:
        """Bits of one level; 32 for floats."""
        return {Form.FLOAT: 32, Form.FOUR: 4, Form.FOUR_CORRECTED: 4}.get(self, 8)


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """What MatMulNBits takes, for some rows of a matrix.

    `quants` uint8 `[rows, blocks, block·bits/8]`, `scales` float32 `[rows, blocks]`, `zeros` uint8
    and `correction` float32 of that shape where the form has them.
    """

    quants: Bytes
    scales: Floats
    zeros: Bytes | None = None
    correction: Floats | None = None


def is_lossless(kind: Type, form: Form) -> bool:
    """Whether the form holds exactly what the file holds (up to float32 rounding)."""
    if form is Form.FLOAT or form in (Form.FOUR, Form.FOUR_CORRECTED):
        return True
    return form is Form.EIGHT and kind in WHOLE_ZERO


def pack(rows: Bytes, kind: Type, form: Form, name: str) -> Packed:
    """Rows of stored bytes `[rows, row_bytes]` in a packed form.

    Errors: `UnsupportedModel` if a scale is not finite, naming the tensor.
    """
    parts = take_apart(rows, kind)
    minimum = parts.minimum
    if not (np.isfinite(parts.scales).all() and (minimum is None or np.isfinite(minimum).all())):
        raise UnsupportedModel(f"tensor {name!r} holds numbers that are not finite")
    if form is Form.FOUR:
        return Packed(quants=_nibbles(parts.levels), scales=parts.scales)
    if form is Form.FOUR_CORRECTED:
        correction = _minimum(parts) + np.float32(8) * parts.scales
        return Packed(quants=_nibbles(parts.levels), scales=parts.scales, correction=correction)
    if form is Form.EIGHT_ZERO:
        return _with_zero_points(parts)
    return Packed(quants=_around_128(parts), scales=parts.scales)


def _minimum(parts: Levels) -> Floats:
    if parts.minimum is None:
        raise ValueError("these blocks have no minimum")
    return parts.minimum


def _around_128(parts: Levels) -> Bytes:
    if parts.zero is None:
        raise ValueError("these blocks have no whole zero")
    return parts.levels + np.uint8(128 - parts.zero)


def _nibbles(levels: Bytes) -> Bytes:
    """Two levels a byte, the first in the low half."""
    pairs = levels.view(np.uint16)
    packed: Bytes = ((pairs & 0x0F) | (pairs >> 4)).astype(np.uint8)
    return packed


def _with_zero_points(parts: Levels) -> Packed:
    """8 bit with uint8 zero points. See the module's docstring for t and z."""
    scales, minimum = parts.scales, _minimum(parts)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = -minimum / scales
        factors = _factors(z, parts.top)
    poor = factors == 0
    # Blocks in which the minimum dwarfs the steps, or with a scale of 0, are rounded as floats.
    safe = np.where(poor, np.float32(1), factors)
    zeros = np.rint(safe * np.where(poor, np.float32(0), z))
    shift = np.maximum(-zeros, 0)
    multiplied = parts.levels * safe.astype(np.uint8)[..., None]
    if shift.any():
        multiplied += shift.astype(np.uint8)[..., None]
    result = Packed(
        quants=multiplied,
        scales=np.divide(scales, safe, dtype=np.float32),
        zeros=(zeros + shift).astype(np.uint8),
    )
    if poor.any():
        _round_whole_blocks(result, parts, poor)
    return result


def _factors(z: Floats, top: int) -> Floats:
    """The t for each block, a whole number in float32; 0 where none fits in 8 bits."""
    span = np.maximum(np.maximum(z, top - z), np.float32(top))
    limit = np.where(np.isfinite(span), np.floor(np.float32(255) / span), np.float32(0))
    factors: Floats = np.minimum(limit, np.float32(256 // (top + 1)))
    return factors


def _round_whole_blocks(packed: Packed, parts: Levels, poor: npt.NDArray[np.bool_]) -> None:
    """Round the chosen blocks to 255 steps of their range, zero included."""
    values = parts.levels[poor] * parts.scales[poor][:, None] + _minimum(parts)[poor][:, None]
    low = np.minimum(values.min(axis=-1), 0)
    span = np.maximum(values.max(axis=-1), 0) - low
    step = np.where(span > 0, span / np.float32(255), np.float32(1)).astype(np.float32)
    zeros = np.rint(-low / step)
    quants = np.clip(np.rint(values / step[:, None]) + zeros[:, None], 0, 255)
    packed.quants[poor] = quants.astype(np.uint8)
    packed.scales[poor] = step
    if packed.zeros is not None:
        packed.zeros[poor] = zeros.astype(np.uint8)
