"""The reader of GGUF files: what it finds, and that nothing in a file can hurt it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemonade_serve.errors import LemonadeError, UnsupportedModel
from lemonade_serve.importers.architectures.table import describe
from lemonade_serve.importers.container import Container
from lemonade_serve.importers.plan import plan
from lemonade_serve.importers.vocabulary import read_vocabulary
from tests.unit.importers.files import Model

PAIRS_AT = 24  # magic, version, tensor count, pair count


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file."""
    path = tmp_path_factory.mktemp("container") / "whole.gguf"
    return Model("llama", Type.Q4_1, tied=True).write(path).read_bytes()


@pytest.fixture(scope="module")
def header_length(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Where the tensors' bytes begin."""
    path = tmp_path_factory.mktemp("container") / "whole.gguf"
    path.write_bytes(whole)
    return min(tensor.offset for tensor in Container(path).tensors.values())


def test_metadata_and_tensors_are_what_was_written(tmp_path: Path) -> None:
    model = Model("llama", Type.Q4_1, tied=True)
    container = Container(model.write(tmp_path / "tiny.gguf"))
    metadata = container.metadata
    assert metadata.text("general.architecture") == "llama"
    assert metadata.integer("llama.block_count") == 2
    assert metadata.number("llama.rope.freq_base") == 10_000.0
    assert metadata.flag("tokenizer.ggml.add_bos_token") is False
    assert metadata.strings("tokenizer.ggml.tokens") == model.tokenizer["tokenizer.ggml.tokens"]
    assert metadata.array("tokenizer.ggml.token_type")[0] == 3
    assert container.tensors.keys() == model.tensors.keys()
    for name, (kind, shape, rows) in model.tensors.items():
        tensor = container.tensors[name]
        assert (tensor.type, tensor.shape) == (kind, shape)
        np.testing.assert_array_equal(container.rows(tensor).reshape(-1), rows.reshape(-1))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda m: m.text("llama.block_count"), "not a string"),
        (lambda m: m.integer("general.name"), "not a sensible integer"),
        (lambda m: m.number("general.name"), "not a sensible number"),
        (lambda m: m.flag("general.name"), "not a boolean"),
        (lambda m: m.strings("general.name"), "not an array of strings"),
        (lambda m: m.array("general.name"), "not an array of numbers"),
        (lambda m: m.text("nothing.here"), "nothing.here is missing"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(read: object, message: str, tmp_path: Path) -> None:
    metadata = Container(Model("llama", Type.F32, tied=True).write(tmp_path / "x.gguf")).metadata
    assert callable(read)
    with pytest.raises(UnsupportedModel, match=message):
        read(metadata)


@pytest.mark.parametrize(
    ("at", "content", "message"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack("<I", 4), "version 4"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 1 << 62), "tensors do not fit"),
        (16, struct.pack("<Q", 1 << 40), "metadata pairs do not fit"),
        (PAIRS_AT, struct.pack("<Q", 1 << 63), "ends inside a metadata key"),
        (PAIRS_AT + 8, b"\xff", "not UTF-8"),
    ],
)
def test_a_wrong_header_is_named(
    at: int, content: bytes, message: str, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    with pytest.raises(UnsupportedModel, match=message):
        Container(path)


def _pair(kind: int, value: bytes, key: bytes = b"k") -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([_pair(13, b"\0" * 8)], "unknown type 13"),
        ([_pair(9, struct.pack("<IQ", 9, 1))], "array of arrays"),
        ([_pair(9, struct.pack("<IQ", 5, 1 << 61))], "ends inside k"),
        ([_pair(9, struct.pack("<IQ", 8, 1 << 61))], "do not fit"),
        ([_pair(7, b"\1"), _pair(7, b"\1")], "appears twice"),
        ([_pair(4, struct.pack("<I", 3), b"general.alignment")], "general.alignment is 3"),
    ],
)
def test_wrong_metadata_is_named(pairs: list[bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs) + bytes(64))
    with pytest.raises(UnsupportedModel, match=message):
        Container(path)


def _tensor(shape: tuple[int, ...], kind: int = 0, offset: int = 0, name: bytes = b"t") -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([_tensor((32,), kind=4)], "unknown type 4"),
        ([_tensor((1, 1, 1, 1, 1))], "5 dimensions"),
        ([_tensor((0,))], "has the shape"),
        ([_tensor((33,), kind=8)], r"the shape \[33\] in Q8_0"),
        ([_tensor((1 << 60, 1 << 60))], "lies beyond its end"),
        ([_tensor((8,), offset=1 << 60)], "lies beyond its end"),
        ([_tensor((8,), offset=4)], "not aligned"),
        ([_tensor((8,)), _tensor((8,))], "appears twice"),
        ([_tensor((96,), name=bytes([97 + n])) for n in range(9)], "overlap"),
    ],
)
def test_a_wrong_tensor_is_named(tensors: list[bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.gguf"
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)
    path.write_bytes(header + b"".join(tensors) + bytes(1024))
    with pytest.raises(UnsupportedModel, match=message):
        Container(path)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.touch()
    with pytest.raises(UnsupportedModel, match="empty"):
        Container(path)


def _read_everything(path: Path) -> None:
    """All that reads the header; anything but our own error escapes."""
    try:
        container = Container(path)
        decoder = describe(container)
        plan(decoder, container, "auto")
        read_vocabulary(container.metadata, decoder.vocabulary)
    except LemonadeError as error:
        assert error.message


_SETTINGS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_SETTINGS
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(
    data: st.DataObject, whole: bytes, header_length: int, tmp_path: Path
) -> None:
    limit = data.draw(st.sampled_from([header_length + 8, len(whole) - 1]))
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: data.draw(st.integers(0, limit))])
    with pytest.raises(UnsupportedModel):
        Container(path)


@_SETTINGS
@given(data=st.data())
def test_no_number_in_the_header_does_harm(
    data: st.DataObject, whole: bytes, header_length: int, tmp_path: Path
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, header_length - 8))
        number = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63]).map(
                    lambda value: struct.pack("<Q", value)
                ),
            )
        )
        damaged[at : at + len(number)] = number
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged)
    _read_everything(path)
