"""Which engine serves a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Load
from lemonade_serve.worker.engines.base import Engine, failure_code
from lemonade_serve.worker.engines.choice import Choice, examine
from lemonade_serve.worker.engines.pages import begin_settling

_PLAIN_ATTENTION: Final = "ORT_GQA_DISABLE_FLASH_ATTENTION"
"""ONNX Runtime reads it from the environment when it makes a session. Its flash attention for CPUs
decodes slower, the more so the longer the rows (docs/adr/0011-the-batched-engine.md); and both
engines must round alike."""


def open_engine(load: Load, *, context_length: int) -> tuple[Engine, str]:
    """The engine, loaded and warm, and why it is this one. Raises ModelLoadError, and NoCapacity
    where there is no memory."""
    os.environ.setdefault(_PLAIN_ATTENTION, "1")
    decoder, why = _choose(load)
    try:
        if decoder is None:
            from lemonade_serve.worker.engines.genai import GenaiEngine

            return GenaiEngine(load, context_length=context_length), why
        from lemonade_serve.worker.engines.batched import BatchedEngine

        engine = BatchedEngine(load, decoder, context_length=context_length)
        begin_settling()
        return engine, why
    except errors.LemonadeError:
        raise
    except Exception as error:  # native code raises anything, std::bad_alloc included
        if failure_code(error) == errors.NoCapacity.code:
            raise errors.NoCapacity(f"there is no memory to load it: {error}") from error
        raise errors.ModelLoadError(str(error)) from error


def _choose(load: Load) -> Choice:
    if load.engine == "onnxruntime-genai":
        return Choice(None, "worker.engine says so")
    choice = examine(Path(load.path), load.execution_provider)
    if choice.decoder is None and load.engine == "batched":
        raise errors.ModelLoadError(
            f"worker.engine is batched, and this model cannot: {choice.why}"
        )
    return choice
