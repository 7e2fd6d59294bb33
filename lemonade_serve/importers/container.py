"""The GGUF container: a memory-mapped reader that trusts no number in the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. A header is
read once, in order; every count and length is checked against the bytes that are left before it
is used, so a damaged file costs a `UnsupportedModel`, never memory or time. Tensor bytes are views
of the map: nothing is copied here.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from lemonade_serve.errors import JobFailed, UnsupportedModel

Bytes: TypeAlias = npt.NDArray[np.uint8]
Value: TypeAlias = "int | float | bool | str | list[str] | npt.NDArray[np.generic]"

MAX_STRINGS: Final = 1 << 23
"""Longest array of strings: the largest vocabularies have 2^18 tokens and 2^19 merges."""

_MAGIC: Final = b"GGUF"
_NUMBERS: Final[Mapping[int, str]] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9
_MAX_DIMENSIONS: Final = 4


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor's place in the file. `shape` is numpy's order: the contiguous axis is last."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        """How many rows the tensor has; a vector is one row."""
        return prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, as stored."""
        return self.nbytes // self.rows


class Metadata:
    """The key-value pairs of the header, read by type. An error names the key."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`."""
        return [key for key in self._values if key.startswith(prefix)]

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise UnsupportedModel(f"GGUF metadata {key} is not a string")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer from 0 to 2^31 - 1: no size or id in a model is larger."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise UnsupportedModel(f"GGUF metadata {key} is not a sensible integer: {_show(value)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive, finite number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise UnsupportedModel(f"GGUF metadata {key} is not a sensible number: {_show(value)}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A boolean."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise UnsupportedModel(f"GGUF metadata {key} is not a boolean")
        return value

    def strings(self, key: str, default: list[str] | None = None) -> list[str]:
        """An array of strings."""
        value = self._get(key, default)
        if not isinstance(value, list):
            raise UnsupportedModel(f"GGUF metadata {key} is not an array of strings")
        return value

    def array(self, key: str) -> npt.NDArray[np.generic]:
        """An array of numbers, `[n]`, a read-only view of the file."""
        value = self._get(key, None)
        if not isinstance(value, np.ndarray):
            raise UnsupportedModel(f"GGUF metadata {key} is not an array of numbers")
        return value

    def is_array(self, key: str) -> bool:
        """Whether the key holds an array of numbers."""
        return isinstance(self._values.get(key), np.ndarray)

    def _get(self, key: str, default: Value | None) -> Value:
        value = self._values.get(key, default)
        if value is None:
            raise UnsupportedModel(f"GGUF metadata {key} is missing")
        return value


class Container:
    """An open GGUF file: its metadata, its tensors, and their bytes."""

    def __init__(self, path: Path) -> None:
        """Map the file and read its header.

        Errors: `JobFailed` if it cannot be read, `UnsupportedModel` if it is no whole GGUF file.
        """
        self.path = path
        self._map = _map(path)
        header = _Header(self._map, path.name)
        self.metadata = Metadata(header.metadata)
        self.tensors: Mapping[str, Tensor] = header.tensors

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._map)

    def rows(self, tensor: Tensor) -> Bytes:
        """The stored bytes, `[rows, row_bytes]`, read-only."""
        flat = np.frombuffer(self._map, np.uint8, tensor.nbytes, tensor.offset)
        return flat.reshape(tensor.rows, tensor.row_bytes)

    def release(self, tensor: Tensor) -> None:
        """Give the tensor's resident pages back: keeps the peak small on files larger than RAM."""
        start = -(-tensor.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = tensor.offset + tensor.nbytes - start
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, length)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise JobFailed(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise UnsupportedModel(f"{path.name} is empty") from error


class _Header:
    """One pass over the header. `_at` is the next byte to read."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0
        self._strings = 0
        self._check_magic()
        tensors, pairs = self._count(24, "tensors"), self._count(13, "metadata pairs")
        self.metadata: dict[str, Value] = {}
        for _ in range(pairs):
            self._read_pair()
        declared = [self._read_tensor() for _ in range(tensors)]
        self.tensors = self._place(declared)

    def _check_magic(self) -> None:
        if self._data[:4] != _MAGIC:
            raise UnsupportedModel(f"{self._name} is not a GGUF file: the first bytes are not GGUF")
        self._at = 4
        version = self._u32()
        if version & 0xFFFF == 0 and version:
            raise UnsupportedModel(f"{self._name} is a big-endian GGUF file")
        if version not in (2, 3):
            raise UnsupportedModel(f"{self._name} has GGUF version {version}; 2 and 3 are known")

    def _read_pair(self) -> None:
        key = self._string("a metadata key")
        if key in self.metadata:
            raise self._corrupt(f"metadata {key!r} appears twice")
        kind = self._u32()
        self.metadata[key] = self._array(key) if kind == _ARRAY else self._scalar(kind, key)

    def _scalar(self, kind: int, key: str) -> int | float | bool | str:
        if kind == _STRING:
            return self._string(key)
        value: int | float | bool = self._numbers(kind, 1, key)[0].item()
        return value

    def _array(self, key: str) -> Value:
        kind = self._u32()
        if kind == _ARRAY:
            raise UnsupportedModel(f"GGUF metadata {key} is an array of arrays")
        if kind != _STRING:
            return self._numbers(kind, self._u64(), key)
        count = self._count(8, key)
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise self._corrupt(f"metadata {key} has {count} strings")
        return [self._string(key) for _ in range(count)]

    def _numbers(self, kind: int, count: int, key: str) -> npt.NDArray[np.generic]:
        code = _NUMBERS.get(kind)
        if code is None:
            raise self._corrupt(f"metadata {key} has the unknown type {kind}")
        dtype = np.dtype(code)
        start = self._take(count * dtype.itemsize, key)
        return np.frombuffer(self._data, dtype, count, start)

    def _read_tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name")
        dimensions = self._u32()
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._corrupt(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._u64() for _ in range(dimensions))[::-1]
        return name, shape, self._u32(), self._u64()

    def _place(self, declared: list[tuple[str, tuple[int, ...], int, int]]) -> dict[str, Tensor]:
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
            raise self._corrupt(f"general.alignment is {_show(alignment)}")
        base = -(-self._at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        for name, shape, code, offset in declared:
            if name in tensors:
                raise self._corrupt(f"tensor {name!r} appears twice")
            if offset % alignment:
                raise self._corrupt(f"tensor {name!r} is not aligned")
            kind = _tensor_type(name, code)
            nbytes = self._tensor_bytes(name, shape, kind)
            if base + offset + nbytes > len(self._data):
                raise self._corrupt(f"tensor {name!r} lies beyond its end")
            tensors[name] = Tensor(
                name=name, shape=shape, type=kind, offset=base + offset, nbytes=nbytes
            )
        if sum(tensor.nbytes for tensor in tensors.values()) > len(self._data):
            raise self._corrupt("its tensors overlap")
        return tensors

    def _tensor_bytes(self, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        elements = prod(shape)
        if elements == 0 or shape[-1] % per_block:
            raise self._corrupt(f"tensor {name!r} has the shape {list(shape)} in {kind.name}")
        return elements // per_block * block_bytes

    def _u32(self) -> int:
        start = self._take(4, "a number")
        return int.from_bytes(self._data[start : start + 4], "little")

    def _u64(self) -> int:
        start = self._take(8, "a number")
        return int.from_bytes(self._data[start : start + 8], "little")

    def _count(self, least: int, what: str) -> int:
        """A count of things that take at least `least` bytes each."""
        count = self._u64()
        if count * least > len(self._data) - self._at:
            raise self._corrupt(f"{count} {what} do not fit in it")
        return count

    def _string(self, what: str) -> str:
        start = self._at
        if start + 8 > len(self._data):
            raise self._corrupt(f"it ends inside {what}")
        (length,) = _LENGTH(self._data, start)
        end = start + 8 + length
        if end > len(self._data):
            raise self._corrupt(f"it ends inside {what}")
        self._at = end
        try:
            return str(self._data[start + 8 : end], "utf-8")
        except UnicodeDecodeError as error:
            raise self._corrupt(f"{what} is not UTF-8") from error

    def _take(self, length: int, what: str) -> int:
        start = self._at
        if length > len(self._data) - start:
            raise self._corrupt(f"it ends inside {what}")
        self._at = start + length
        return start

    def _corrupt(self, why: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self._name} is damaged or cut short: {why}")


_LENGTH: Final[Callable[[mmap.mmap, int], tuple[int]]] = struct.Struct("<Q").unpack_from


def _tensor_type(name: str, code: int) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(code)
    except ValueError as error:
        raise UnsupportedModel(f"tensor {name!r} has the unknown type {code}") from error


def _show(value: object) -> str:
    return repr(value)[:40]
