"""The same model in another GGUF type: what llama.cpp's quantiser makes of a file.

    python -m benchmarks.requantised FILE.gguf TYPE INTO.gguf --ggml libggml-base.so

Every matrix is dequantised and quantised anew by ggml's own library (of a llama.cpp build); rows
that a type's blocks do not fit get the type that llama-quantize falls back to. For
`python -m benchmarks.agreement`, so that one model tells how good each type's import is.
"""

from __future__ import annotations

import argparse
import ctypes
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFValueType, GGUFWriter
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

_FALLBACKS: Final = {
    Type.Q2_K: Type.IQ4_NL, Type.Q3_K: Type.IQ4_NL, Type.IQ4_XS: Type.IQ4_NL,
    Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0,
}  # fmt: skip
_OWN_KEYS: Final = ("GGUF.", "general.architecture", "general.quantization_version")


class Quantiser:
    """`ggml_quantize_chunk` of the library, and plain floats."""

    def __init__(self, library: Path) -> None:
        self._ggml = ctypes.CDLL(str(library))
        self._ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        self._ggml.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip

    def rows(self, values: np.ndarray[tuple[int, int], np.dtype[np.float32]], kind: Type) -> bytes:
        """Stored bytes of `[rows, columns]`."""
        values = np.ascontiguousarray(values)
        count, columns = values.shape
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        stored = np.zeros(count * (columns // per_block) * block_bytes, np.uint8)
        written = self._ggml.ggml_quantize_chunk(
            int(kind), values.ctypes.data, stored.ctypes.data, 0, count, columns, None
        )
        if written != stored.nbytes:
            raise ValueError(f"{kind.name}: {written} bytes instead of {stored.nbytes}")
        return stored.tobytes()


def fitting(kind: Type, columns: int) -> Type:
    """The type itself, or what llama-quantize takes for rows that its blocks do not fit."""
    return kind if columns % GGML_QUANT_SIZES[kind][0] == 0 else _FALLBACKS[kind]


def requantise(source: Path, kind: Type, into: Path, quantiser: Quantiser) -> Counter[Type]:
    """Write the file; returns how many matrices have which type."""
    reader = GGUFReader(source)
    writer = GGUFWriter(into, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith(_OWN_KEYS):
            inner = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    counts: Counter[Type] = Counter()
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        fits = fitting(kind, values.shape[1])
        counts[fits] += 1
        stored = np.frombuffer(quantiser.rows(values, fits), np.uint8)
        writer.add_tensor(tensor.name, stored.reshape(len(values), -1), raw_dtype=fits)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("type", choices=[kind.name for kind in Type])
    parser.add_argument("into", type=Path)
    parser.add_argument("--ggml", type=Path, required=True)
    given = parser.parse_args()
    counts = requantise(given.file, Type[given.type], given.into, Quantiser(given.ggml))
    print(", ".join(f"{count} matrices in {kind.name}" for kind, count in counts.items()))


if __name__ == "__main__":
    main()
