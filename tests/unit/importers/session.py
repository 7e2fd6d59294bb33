"""Imports of tiny models, and their graphs in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from lemonade_serve.importers.gguf import ImportReport, import_gguf
from tests.unit.importers.files import Model


class Session:
    """The graph in ONNX Runtime, with a cache carried from call to call."""

    def __init__(self, checkpoint: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(checkpoint / "model.onnx"), options)
        self._cache = {
            value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past_")
        }
        self._length = 0

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits after the last of the next tokens, `[vocabulary]`."""
        self._length += len(ids)
        feed = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, self._length), np.int64),
            **self._cache,
        }
        logits, *present = self._session.run(None, feed)
        self._cache = dict(zip(self._cache, present, strict=True))
        assert logits.shape[:2] == (1, 1)
        return np.asarray(logits[0, 0])


def import_model(model: Model, folder: Path, dtype: str = "auto") -> tuple[ImportReport, Session]:
    """Write the model as GGUF, and import it into `folder / "checkpoint"`."""
    into = folder / "checkpoint"
    into.mkdir()
    source = model.write(folder / "tiny.gguf")
    report = import_gguf(source, into, dtype=dtype, progress=lambda stage, fraction: None)
    return report, Session(into)
