"""GGUF blocks taken apart: what each stored type holds. Formulas: ggml-quants.c.

Every quantised type is small unsigned integers, one scale a block, and either a whole zero or a
float minimum. Floats are rounded to 8 bit here, as llama.cpp's Q8_0 does it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

FLOAT_TYPES: Final = frozenset({Type.F32, Type.F16, Type.BF16})
WHOLE_ZERO: Final = frozenset(
    {Type.Q4_0, Type.Q5_0, Type.Q8_0, Type.Q3_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS}
)
FLOAT_MINIMUM: Final = frozenset({Type.Q4_1, Type.Q5_1, Type.Q2_K, Type.Q4_K, Type.Q5_K})
FOUR_BIT: Final = frozenset({Type.Q4_0, Type.Q4_1, Type.Q4_K})
SUPPORTED: Final = FLOAT_TYPES | WHOLE_ZERO | FLOAT_MINIMUM

_FLOAT_BLOCK: Final = 32
_SMALL_BLOCKS: Final = frozenset({Type.Q2_K, Type.Q3_K, Type.Q6_K})

# ggml's kvalues_iq4nl, with the zero at 128.
_IQ4: Final = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16
)
_IQ4_LEVELS: Final = (_IQ4 + 128).astype(np.uint8)


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks taken apart: value = (level - zero)·scale, or level·scale + minimum.

    `levels` is uint8 `[rows, blocks, block]`, `scales` float32 `[rows, blocks]`; exactly one of
    `zero` and `minimum` (float32 `[rows, blocks]`) is set. `top` is the largest level.
    """

    levels: Bytes
    scales: Floats
    top: int
    zero: int | None = None
    minimum: Floats | None = None


def block_size(kind: Type) -> int:
    """Weights that share a scale."""
    return 16 if kind in _SMALL_BLOCKS else 32


def floats(rows: Bytes, kind: Type) -> Floats:
    """Rows of stored bytes as float32 `[rows, columns]`."""
    result: Floats = dequantize(rows, kind)
    return result


def take_apart(rows: Bytes, kind: Type) -> Levels:
    """Rows of stored bytes `[rows, row_bytes]` of a supported type."""
    if kind in FLOAT_TYPES:
        return _round_floats(floats(rows, kind))
    return _READERS[kind](rows)


def _round_floats(values: Floats) -> Levels:
    blocks = values.reshape(len(values), -1, _FLOAT_BLOCK)
    largest = np.abs(blocks).max(axis=-1)
    scales = largest / np.float32(127)
    inverse = np.divide(127, largest, out=np.zeros_like(largest), where=largest > 1e-30)
    with np.errstate(invalid="ignore"):
        levels = (np.rint(blocks * inverse[..., None]) + 128).astype(np.uint8)
    return Levels(levels=levels, scales=scales, top=255, zero=128)


def _half(column: Bytes) -> Floats:
    """Two bytes at the end of the axis as float32, that axis dropped."""
    return np.ascontiguousarray(column).view(np.float16)[..., 0].astype(np.float32)


def _split_nibbles(stored: Bytes) -> Bytes:
    """ggml's halves: the low nibbles are the first half of the block, the high ones the second."""
    half = stored.shape[-1]
    levels = np.empty((*stored.shape[:-1], 2 * half), np.uint8)
    np.bitwise_and(stored, 0x0F, out=levels[..., :half])
    np.right_shift(stored, 4, out=levels[..., half:])
    return levels


def _fifth_bits(stored: Bytes) -> Bytes:
    """Four bytes as 32 bits, the lowest first, each already shifted to bit 4."""
    return np.unpackbits(stored, axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 18)
    levels = _split_nibbles(blocks[..., 2:])
    return Levels(levels=levels, scales=_half(blocks[..., :2]), top=15, zero=8)


def _q4_1(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 20)
    scales, minimum = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    return Levels(levels=_split_nibbles(blocks[..., 4:]), scales=scales, top=15, minimum=minimum)


def _q5_0(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 22)
    levels = _split_nibbles(blocks[..., 6:])
    levels |= _fifth_bits(blocks[..., 2:6])
    return Levels(levels=levels, scales=_half(blocks[..., :2]), top=31, zero=16)


def _q5_1(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 24)
    levels = _split_nibbles(blocks[..., 8:])
    levels |= _fifth_bits(blocks[..., 4:8])
    scales, minimum = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    return Levels(levels=levels, scales=scales, top=31, minimum=minimum)


def _q8_0(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 34)
    levels = blocks[..., 2:] ^ np.uint8(0x80)
    return Levels(levels=levels, scales=_half(blocks[..., :2]), top=255, zero=128)


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scale and minimum of the eight 32-blocks of `[rows, superblocks, ≥16]`, `[…, 8]` each."""
    low, middle, high = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    six = np.uint8(0x3F)
    scales = np.concatenate([low & six, (high & 0x0F) | ((low >> 2) & 0x30)], axis=-1)
    minima = np.concatenate([middle & six, (high >> 4) | ((middle >> 2) & 0x30)], axis=-1)
    d, dmin = _half(blocks[..., :2])[..., None], _half(blocks[..., 2:4])[..., None]
    return d * scales.astype(np.float32), -(dmin * minima.astype(np.float32))


def _q4_k(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 144)
    scales, minimum = _k_scales(blocks)
    levels = _split_nibbles(blocks[..., 16:].reshape(len(rows), -1, 32))
    return _affine(levels, scales, minimum, 15)


def _q5_k(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 176)
    scales, minimum = _k_scales(blocks)
    levels = _split_nibbles(blocks[..., 48:].reshape(len(rows), -1, 4, 32))
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks[..., 16:48][..., None, :] >> shifts) & np.uint8(1)
    levels |= (high << np.uint8(4)).reshape(levels.shape)
    return _affine(levels, scales, minimum, 31)


def _affine(levels: Bytes, scales: Floats, minimum: Floats, top: int) -> Levels:
    count = len(levels)
    return Levels(
        levels=levels.reshape(count, -1, 32),
        scales=scales.reshape(count, -1),
        minimum=minimum.reshape(count, -1),
        top=top,
    )


def _q6_k(rows: Bytes) -> Levels:
    count = len(rows)
    blocks = rows.reshape(count, -1, 210)
    low = blocks[..., :128].reshape(count, -1, 2, 1, 64) >> np.array([[0], [4]], np.uint8)
    high = blocks[..., 128:192].reshape(count, -1, 2, 1, 32)
    high = (high >> np.array([[0], [2], [4], [6]], np.uint8)) & np.uint8(3)
    levels = (low & np.uint8(0x0F)).reshape(count, -1, 16)
    levels |= (high << np.uint8(4)).reshape(count, -1, 16)
    signed = blocks[..., 192:208].view(np.int8).astype(np.float32)
    scales = _half(blocks[..., 208:])[..., None] * signed
    return Levels(levels=levels, scales=scales.reshape(count, -1), top=63, zero=32)


def _q2_k(rows: Bytes) -> Levels:
    count = len(rows)
    blocks = rows.reshape(count, -1, 84)
    levels = _split_pairs(blocks[..., 16:80])
    stored = blocks[..., :16]
    d, dmin = _half(blocks[..., 80:82])[..., None], _half(blocks[..., 82:84])[..., None]
    scales = d * (stored & 0x0F).astype(np.float32)
    minimum = -(dmin * (stored >> 4).astype(np.float32))
    return Levels(
        levels=levels.reshape(count, -1, 16),
        scales=scales.reshape(count, -1),
        minimum=minimum.reshape(count, -1),
        top=3,
    )


def _q3_k(rows: Bytes) -> Levels:
    count = len(rows)
    blocks = rows.reshape(count, -1, 110)
    levels = _split_pairs(blocks[..., 32:96]).reshape(count, -1, 8, 32)
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    levels |= ((blocks[..., None, :32] >> shifts) & np.uint8(1)) << np.uint8(2)
    low = blocks[..., None, 96:104] >> np.array([[0], [4]], np.uint8) & np.uint8(0x0F)
    high = blocks[..., None, 104:108] >> np.array([[0], [2], [4], [6]], np.uint8) & np.uint8(3)
    six = low.reshape(count, -1, 16) | high.reshape(count, -1, 16) << np.uint8(4)
    scales = _half(blocks[..., 108:])[..., None] * (six.astype(np.float32) - np.float32(32))
    return Levels(
        levels=levels.reshape(count, -1, 16), scales=scales.reshape(count, -1), top=7, zero=4
    )


def _split_pairs(stored: Bytes) -> Bytes:
    """`[rows, superblocks, 64]` of 2 bits each: of 32 bytes the lowest two bits come first."""
    parts = stored.reshape(*stored.shape[:-1], 2, 1, 32)
    return parts >> np.array([[0], [2], [4], [6]], np.uint8) & np.uint8(3)


def _iq4_nl(rows: Bytes) -> Levels:
    blocks = rows.reshape(len(rows), -1, 18)
    levels = _IQ4_LEVELS[_split_nibbles(blocks[..., 2:])]
    return Levels(levels=levels, scales=_half(blocks[..., :2]), top=255, zero=128)


def _iq4_xs(rows: Bytes) -> Levels:
    count = len(rows)
    blocks = rows.reshape(count, -1, 136)
    levels = _IQ4_LEVELS[_split_nibbles(blocks[..., 8:].reshape(count, -1, 16))]
    low = blocks[..., 4:8, None] >> np.array([0, 4], np.uint8) & np.uint8(0x0F)
    high = blocks[..., 2:4, None] >> np.array([0, 2, 4, 6], np.uint8) & np.uint8(3)
    six = low.reshape(count, -1, 8) | high.reshape(count, -1, 8) << np.uint8(4)
    scales = _half(blocks[..., :2])[..., None] * (six.astype(np.float32) - np.float32(32))
    return Levels(levels=levels, scales=scales.reshape(count, -1), top=255, zero=128)


_READERS: Final = {
    Type.IQ4_NL: _iq4_nl,
    Type.IQ4_XS: _iq4_xs,
    Type.Q2_K: _q2_k,
    Type.Q3_K: _q3_k,
    Type.Q4_0: _q4_0,
    Type.Q4_1: _q4_1,
    Type.Q5_0: _q5_0,
    Type.Q5_1: _q5_1,
    Type.Q8_0: _q8_0,
    Type.Q4_K: _q4_k,
    Type.Q5_K: _q5_k,
    Type.Q6_K: _q6_k,
}
