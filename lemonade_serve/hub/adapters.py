"""The LoRA adapters that lie beside a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from lemonade_serve.domain.names import can_name_adapter
from lemonade_serve.protocol.messages import Adapter

_SUFFIX = ".onnx_adapter"
_FOLDER = "adapters"


class _Part(msgspec.Struct, frozen=True):
    adapter_filename: str = ""


class _Model(msgspec.Struct):
    vision: _Part = _Part()
    speech: _Part = _Part()


class _Config(msgspec.Struct):
    model: _Model


def find(checkpoint: Path) -> tuple[Adapter, ...]:
    """By name: `adapters/NAME.onnx_adapter`, or else `NAME.onnx_adapter` beside the graph, where
    Olive writes them. What onnxruntime-genai gives to pictures and speech is nobody's to choose."""
    found: dict[str, Adapter] = {}
    for path in _files(checkpoint):
        name = path.name.removesuffix(_SUFFIX)
        if can_name_adapter(name) and name not in found:
            with suppress(OSError):  # it has just gone
                known = path.stat()
                found[name] = Adapter(name, str(path), known.st_size, known.st_mtime_ns)
    return tuple(found[name] for name in sorted(found))


def misnamed(checkpoint: Path) -> list[Path]:
    """Those that no request could name: theirs is a dtype or a device, or has other characters than
    letters, digits, `.`, `_` and `-`."""
    return [p for p in _files(checkpoint) if not can_name_adapter(p.name.removesuffix(_SUFFIX))]


def _files(checkpoint: Path) -> Iterator[Path]:
    yield from _within(checkpoint / _FOLDER)
    if beside := _within(checkpoint):
        own = _own(checkpoint)
        yield from (path for path in beside if path.name not in own)


def _within(directory: Path) -> list[Path]:
    try:
        return sorted(
            path
            for path in directory.iterdir()
            if path.name.endswith(_SUFFIX) and not path.name.startswith(".") and path.is_file()
        )
    except OSError:
        return []


def _own(checkpoint: Path) -> set[str]:
    try:
        config = (checkpoint / "genai_config.json").read_bytes()
        model = msgspec.json.decode(config, type=_Config).model
    except (OSError, msgspec.DecodeError):
        return set()
    return {model.vision.adapter_filename, model.speech.adapter_filename}
