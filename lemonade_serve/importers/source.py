"""A model as the hub has it: a directory of `config.json`, safetensors and a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any, Final

import msgspec

from lemonade_serve.errors import UnsupportedModel

_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_MAX_HEADER_BYTES: Final = 100 * 1024 * 1024
_TOKENIZER: Final = "tokenizer.json"
_TOKENIZER_FILES: Final = (
    _TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Served as they are: what a library makes of them may differ."""
_INEXACT: Final = frozenset({"OlmoForCausalLM"})
"""In float32 its graph agrees with transformers at two thirds of the positions: docs/convert.md."""
_HASH_CHUNK: Final = 1 << 22
_DTYPE_BYTES: Final = {"int4": 0.75, "int8": 1.25, "fp16": 2.0, "bf16": 2.0, "fp32": 4.0}
"""Of a weight at the most, its part of a scale included."""


class Kind(Enum):
    """What a model is for, and so what converts it."""

    DECODER = "decoder"
    ENCODER = "encoder"


class SourceConfig(msgspec.Struct, frozen=True):
    """What `config.json` says, as far as it matters here."""

    model_type: str
    architectures: list[str] = []
    vocab_size: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    max_position_embeddings: int = 0
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None
    quantization_config: Any = None

    @property
    def labels(self) -> int:
        """Of a classifier."""
        return self.num_labels or len(self.id2label or {}) or 2


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    bytes: int
    sha256: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A complete one. `parameters` counts its weights."""

    directory: Path
    config: SourceConfig
    kind: Kind
    weights: tuple[Path, ...]
    parameters: int

    @property
    def architecture(self) -> str:
        return self.config.architectures[0] if self.config.architectures else ""

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """What to copy."""
        found = (path for name in _TOKENIZER_FILES for path in self.directory.glob(name))
        return tuple(path for path in found if path.is_file())

    def checkpoint_bytes(self, dtype: str) -> int:
        """What a checkpoint of it may take on the disk, at the most: the embedding may stay in
        float32 beside a head of its own."""
        embedding = 4 * self.config.vocab_size * self.config.hidden_size
        return int(self.parameters * _DTYPE_BYTES[dtype]) + embedding

    def digests(self, read: Callable[[int], None]) -> tuple[SourceFile, ...]:
        """Of its configuration and its weights; `read` is told the bytes of each piece."""
        return tuple(
            SourceFile(path=path.name, bytes=path.stat().st_size, sha256=_sha256(path, read))
            for path in (self.directory / _CONFIG, *self.weights)
        )


def read_source(directory: Path, *, encoder: bool = False) -> Source:
    """Reads no weights. Raises UnsupportedModel for what is none, or cannot be converted."""
    config = _read(directory / _CONFIG, SourceConfig)
    weights = _weights(directory)
    kind = Kind.ENCODER if encoder else _kind(config)
    if config.quantization_config:
        raise UnsupportedModel(
            "its weights are quantised already, and rounding them again loses much: convert the "
            "model that it was made of"
        )
    return Source(
        directory=directory,
        config=config,
        kind=kind,
        weights=weights,
        parameters=sum(size for path in weights for size in _sizes(path)),
    )


def _kind(config: SourceConfig) -> Kind:
    architecture = config.architectures[0] if config.architectures else config.model_type
    if architecture in _INEXACT:
        raise UnsupportedModel(f"the model builder makes another model than {architecture} of it")
    if architecture.endswith("ForCausalLM"):
        return Kind.DECODER
    raise UnsupportedModel(f"{architecture} is no decoder of text: it cannot be converted")


def _weights(directory: Path) -> tuple[Path, ...]:
    index, names = directory / _INDEX, [_WEIGHTS]
    if index.is_file():
        names = sorted(set(_read(index, _Index).weight_map.values()))
    for name in (_TOKENIZER, *names):
        if "/" in name or not (directory / name).is_file():
            raise UnsupportedModel(f"there is no {name} in {directory}")
    return tuple(directory / name for name in names)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Tensor(msgspec.Struct):
    shape: list[int] = []


def _sizes(path: Path) -> Iterator[int]:
    """Of the tensors in a safetensors file, in elements."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _MAX_HEADER_BYTES:
            raise UnsupportedModel(f"{path.name} is no safetensors file")
        header = file.read(length)
    try:
        tensors = msgspec.json.decode(header, type=dict[str, _Tensor])
    except msgspec.DecodeError as error:
        raise UnsupportedModel(f"{path.name} is no safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if name != "__metadata__":
            yield prod(tensor.shape)


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UnsupportedModel(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path}: {error}") from error


def _sha256(path: Path, read: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
            read(len(chunk))
    return digest.hexdigest()
