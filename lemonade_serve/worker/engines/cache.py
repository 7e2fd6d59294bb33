"""The keys and values of many sequences, in one piece of memory that costs nothing until it is
written to.

Shape (layers · 2, rows, key/value heads, capacity, head size): a row is a sequence's, and a run of
rows is a batch to ONNX Runtime. Rows are exchanged by moving their pages, not their bytes.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MAP_NORESERVE: Final = 0x4000  # asm-generic/mman.h
_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4  # linux/mman.h
_MOVE: Final = _MREMAP_MAYMOVE | _MREMAP_FIXED | _MREMAP_DONTUNMAP
_MADV_DONTNEED: Final = 4  # asm-generic/mman-common.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
]
_libc.mremap.restype = ctypes.c_void_p
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class KvCache:
    """`rows` sequences of `capacity` tokens at least. Raises MemoryError when the address space
    is not to be had."""

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        heads: int,
        capacity: int,
        head_size: int,
        dtype: np.dtype[Any],
    ) -> None:
        token_bytes = head_size * dtype.itemsize
        pages_end = mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, heads * token_bytes)
        self.capacity = -(-capacity // pages_end) * pages_end
        self.token_bytes = 2 * layers * heads * token_bytes
        """What one token of one sequence takes."""
        self._sides, self._rows = 2 * layers, rows
        self._row_bytes = heads * self.capacity * token_bytes
        regions = self._sides * rows
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:  # and one region more, through which rows are exchanged
            self._memory = mmap.mmap(-1, (regions + 1) * self._row_bytes, flags=flags)
        except OSError as error:
            raise MemoryError(f"no address space for the KV cache: {error}") from error
        with suppress(OSError):  # a kernel that has none; one page for a token is not to be 2 MiB
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        shape = (self._sides, rows, heads, self.capacity, head_size)
        self._values: NDArray[Any] = np.frombuffer(
            self._memory, dtype, count=math.prod(shape)
        ).reshape(shape)
        self._address = self._values.ctypes.data
        self._spare = self._address + regions * self._row_bytes
        self.moves = self._move(self._address, self._spare)
        """Whether rows can be exchanged without being written to."""

    def side(self, layer: int, side: int, first: int, count: int) -> NDArray[Any]:
        """The keys (side 0) or values (1) of a layer, of `count` rows from `first` on."""
        return self._values[2 * layer + side, first : first + count]

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        """Tokens `begin` to `end` of one row into another."""
        self._values[:, target, :, begin:end] = self._values[:, source, :, begin:end]

    def exchange(self, one: int, other: int, tokens: int) -> None:
        """Two rows change places, at the cost of their page tables. Neither holds more than so many
        tokens: where the kernel cannot move pages, these are copied."""
        if not self.moves:
            held = self._values[:, one, :, :tokens].copy()
            self.copy(other, one, 0, tokens)
            self._values[:, other, :, :tokens] = held
            return
        for side in range(self._sides):
            a, b = self._region(side, one), self._region(side, other)
            if not (self._move(a, self._spare) and self._move(b, a) and self._move(self._spare, b)):
                # Two sequences are half in each other's place: nothing here can be trusted now.
                raise SystemExit("the kernel does not exchange rows of the KV cache any more")

    def give_back(self, row: int) -> None:
        """Its memory is the system's again; what it held is gone."""
        for side in range(self._sides):
            _libc.madvise(self._region(side, row), self._row_bytes, _MADV_DONTNEED)

    def _region(self, side: int, row: int) -> int:
        return self._address + (side * self._rows + row) * self._row_bytes

    def _move(self, source: int, target: int) -> bool:
        """The pages of a region to another one, whose own are dropped. The source stays mapped, so
        that no other thread's memory ever comes to lie there (Linux 5.7)."""
        moved = _libc.mremap(source, self._row_bytes, self._row_bytes, _MOVE, target)
        return bool(moved == target)
