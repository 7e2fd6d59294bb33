"""Which checkpoints the batched engine takes, and why it leaves the others to onnxruntime-genai.

That is read from the graph and `genai_config.json`, never from a model's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from lemonade_serve import errors
from lemonade_serve.worker.engines.decoder import Decoder, DecoderConfig, DecoderGraph, Unfit

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Choice", "Decoder", "examine"]

_TAKEN: Final = "GroupQueryAttention with shared past and present"


class Choice(NamedTuple):
    """`decoder` is None for what onnxruntime-genai serves; `why` is a clause for people."""

    decoder: Decoder | None
    why: str


class ModelConfig(msgspec.Struct):
    decoder: DecoderConfig
    encoder: Any = None
    embedding: Any = None
    vision: Any = None
    speech: Any = None


class _Config(msgspec.Struct):
    model: ModelConfig


def examine(directory: Path, execution_provider: str) -> Choice:
    """Whether the batched engine can serve the checkpoint on an execution provider.

    Reads no weights and runs nothing but what the graph computes of its attention mask. Raises
    ModelLoadError for a configuration or a graph that cannot be read.
    """
    try:
        if execution_provider != "cpu":
            raise Unfit(f"it runs on {execution_provider}, not on cpu")
        model = read_config(directory)
        _require_text_only(model)
        path = directory / model.decoder.filename
        graph = DecoderGraph(path, _read_graph(path), model.decoder)
        return Choice(graph.decoder(), _TAKEN)
    except Unfit as unfit:
        return Choice(None, str(unfit))


def read_config(directory: Path) -> ModelConfig:
    """`model` of a checkpoint's configuration. Raises ModelLoadError."""
    path = directory / "genai_config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config).model
    except (OSError, msgspec.DecodeError) as error:
        raise errors.ModelLoadError(f"{path}: {error}") from error


def _read_graph(path: Path) -> ModelProto:
    import onnx  # heavy, and not needed where the execution provider decides

    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is not a public name
        raise errors.ModelLoadError(f"{path} is not an ONNX file: {error}") from error


def _require_text_only(model: ModelConfig) -> None:
    for part in ("encoder", "embedding", "vision", "speech"):
        if getattr(model, part):
            raise Unfit(f"it has a part besides the decoder: {part}")
    if model.decoder.pipeline:
        raise Unfit("its decoder is a pipeline of graphs")
    if model.decoder.sliding_window:
        raise Unfit("its cache slides along with a window")
