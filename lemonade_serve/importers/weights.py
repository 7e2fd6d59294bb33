"""Fill `model.onnx.data`: a few rows at a time, so that memory does not grow with the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from lemonade_serve.importers.architectures.decoder import Decoder, Rope
from lemonade_serve.importers.blocks import Form, Packed, pack
from lemonade_serve.importers.container import Container
from lemonade_serve.importers.levels import Bytes, Floats, floats
from lemonade_serve.importers.plan import Matrix, Plan, Source, Stored, Table

Rows: TypeAlias = npt.NDArray[np.intp]

_CHUNK_WEIGHTS: Final = 1 << 19
"""Weights converted at once: what numpy makes of them in between stays in the cache."""


class DataFile:
    """The data file while it is written, in the order of a plan."""

    def __init__(
        self, file: BinaryIO, container: Container, written: Callable[[int], None]
    ) -> None:
        """`written` is told the bytes of each chunk."""
        self._file = file
        self._container = container
        self._written = written

    def write_matrix(self, matrix: Matrix) -> None:
        """Convert and write every row of a matrix."""
        start = 0
        for source in matrix.sources:
            self._write_source(matrix, source, start)
            start += source.rows
            self._container.release(source.tensor)

    def write_table(self, table: Table, decoder: Decoder, divisors: Floats | None) -> None:
        """Compute and write one rope's cosines and sines."""
        inverse = inverse_frequencies(table.rope, decoder.head_size, divisors)
        magnitude = table.rope.magnitude
        step = max(1, _CHUNK_WEIGHTS // len(inverse))
        for start in range(0, decoder.context, step):
            positions = np.arange(start, min(start + step, decoder.context), dtype=np.float64)
            angles = np.outer(positions, inverse)
            self._write(table.cosines, start, (np.cos(angles) * magnitude).astype(np.float32))
            self._write(table.sines, start, (np.sin(angles) * magnitude).astype(np.float32))

    def _write_source(self, matrix: Matrix, source: Source, start: int) -> None:
        tensor = source.tensor
        stored = self._container.rows(tensor)[source.first : source.first + source.rows]
        order = unpermuted(source.rows, source.heads) if source.heads else None
        step = max(1, _CHUNK_WEIGHTS // matrix.columns)
        for first in range(0, source.rows, step):
            last = min(first + step, source.rows)
            chunk = stored[first:last] if order is None else stored[order[first:last]]
            if matrix.form is Form.FLOAT:
                values = _multiplied(floats(chunk, tensor.type), source.factor)
                self._write(matrix.quants, start + first, values)
            else:
                packed = pack(chunk, tensor.type, matrix.form, tensor.name)
                self._write_packed(matrix, start + first, packed, source.factor)

    def _write_packed(self, matrix: Matrix, row: int, packed: Packed, factor: float) -> None:
        self._write(matrix.quants, row, packed.quants)
        if matrix.scales is not None:
            self._write(matrix.scales, row, _multiplied(packed.scales, factor))
        if matrix.zeros is not None and packed.zeros is not None:
            self._write(matrix.zeros, row, packed.zeros)
        if matrix.correction is not None and packed.correction is not None:
            self._write(matrix.correction, row, _multiplied(packed.correction, factor))

    def _write(self, place: Stored, row: int, values: Bytes | Floats) -> None:
        self._file.seek(place.offset + row * (place.nbytes // place.shape[0]))
        rest = np.ascontiguousarray(values).data.cast("B")
        while rest:  # on a disk that is nearly full a part is written, and that is no error
            rest = rest[self._file.write(rest) :]
        self._written(values.nbytes)


def _multiplied(values: Floats, factor: float) -> Floats:
    return values if factor == 1.0 else values * np.float32(factor)


def write_data(
    path: Path, plan: Plan, decoder: Decoder, container: Container, written: Callable[[int], None]
) -> None:
    """Write the whole data file; `written` is told the bytes of each chunk."""
    divisors = None if decoder.divisors is None else vector(container, decoder.divisors)
    with path.open("wb", buffering=0) as file:
        data = DataFile(file, container, written)
        for matrix in plan.matrices():
            data.write_matrix(matrix)
        for table in plan.tables:
            data.write_table(table, decoder, divisors)
        file.truncate(plan.nbytes)


def vector(container: Container, name: str) -> Floats:
    """A one-dimensional tensor as float32."""
    tensor = container.tensors[name]
    return floats(container.rows(tensor), tensor.type).reshape(-1)


def inverse_frequencies(
    rope: Rope, head_size: int, divisors: Floats | None
) -> npt.NDArray[np.float64]:
    """Radians a position for each pair of a head, `[head_size/2]`."""
    exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
    inverse: npt.NDArray[np.float64] = rope.base**-exponents / rope.factor
    return inverse if divisors is None else inverse / divisors


def unpermuted(rows: int, heads: int) -> Rows:
    """Row order that undoes llama's export: GGUF pairs neighbours, ONNX pairs halves of a head.

    convert_hf_to_gguf.py `LlamaModel.permute` is the inverse.
    """
    index = np.arange(rows, dtype=np.intp).reshape(heads, rows // heads // 2, 2)
    return index.swapaxes(1, 2).reshape(-1)
