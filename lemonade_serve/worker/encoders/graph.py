"""An encoder's graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Encoder, Load
from lemonade_serve.worker.encoders.reading import Row

Values = NDArray[np.float32]
"""One input's vector, or its score."""

_STATES: Final[tuple[str, ...]] = ("last_hidden_state", "token_embeddings", "hidden_states")
_POOLED: Final = "sentence_embedding"
_LOGITS: Final = "logits"
_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_TYPES: Final = "token_type_ids"
_POSITIONS: Final = "position_ids"
_INTEGERS: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_LEAST_NORM: Final = 1e-12


class EncoderGraph:
    """Runs the graph of `encoder` for rows of tokens.

    A row's values do not depend on the rows beside it but for the last bits of a float. Raises
    ModelLoadError for a graph that wants or gives something else, and what ONNX Runtime raises.
    """

    def __init__(self, load: Load, encoder: Encoder, *, pad: int) -> None:
        if load.execution_provider != "cpu":
            raise errors.ModelLoadError(
                f"encoders run on the execution provider cpu, and not on {load.execution_provider}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = load.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(
            str(Path(load.path, encoder.graph)), options, providers=["CPUExecutionProvider"]
        )
        self._encoder = encoder
        self._pad = pad
        self._inputs = _inputs(self._session)
        self._output = _output(self._session, encoder)
        self._size = 0
        """How many numbers a row's values are."""

    def warm_up(self, row: Row) -> None:
        """Run for the first time, which takes longer; before anything else."""
        self._size = len(self.run([row])[0])

    def check(self, dimensions: int | None) -> None:
        """Raises InvalidRequest if vectors cannot have so many numbers."""
        trained = self._encoder.dimensions
        if dimensions is None or dimensions == self._size or dimensions in trained:
            return
        if trained:
            known = ", ".join(map(str, {*trained, self._size}))
            why = f"this model's vectors were trained for {known} dimensions, not for {dimensions}"
            raise errors.InvalidRequest(why, param="dimensions")
        if dimensions > self._size:
            why = f"this model's vectors have {self._size} dimensions, and not {dimensions}"
            raise errors.InvalidRequest(why, param="dimensions")

    def run(self, rows: Sequence[Row]) -> list[Values]:
        """What each row is; a vector is not yet cut or made to length 1."""
        lengths = np.array([len(row) for row in rows])
        width = int(lengths.max())
        mask = np.arange(width) < lengths[:, None]
        ids = np.full((len(rows), width), self._pad, np.int64)
        types = np.zeros((len(rows), width), np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)], types[at, : len(row)] = row
        positions = np.broadcast_to(np.arange(width), ids.shape)
        given = {_IDS: ids, _MASK: mask, _TYPES: types, _POSITIONS: positions}
        feed = {name: given[name].astype(kind) for name, kind in self._inputs.items()}
        (output,) = self._session.run([self._output], feed)
        return [self._values(one, length) for one, length in zip(output, lengths, strict=True)]

    def finish(self, values: Values, dimensions: int | None) -> Values:
        """Of a vector so many numbers, and length 1 if the model's have that. A score stays."""
        if self._encoder.task == "rerank":
            return values
        kept = values[:dimensions].astype(np.float64)
        if self._encoder.normalized:
            kept /= max(float(np.linalg.norm(kept)), _LEAST_NORM)
        return kept.astype(np.float32)

    def _values(self, output: NDArray[Any], length: int) -> Values:
        if self._encoder.task == "rerank":
            logit = output.reshape(-1)[:1].astype(np.float64)
            score: Values = (1 / (1 + np.exp(-logit))).astype(np.float32)
            return score
        return _pooled(output, int(length), self._encoder.pooling).astype(np.float32)


def _pooled(output: NDArray[Any], length: int, pooling: str) -> NDArray[Any]:
    """Of the vectors of `length` tokens, with those of padding behind, one."""
    pooled: NDArray[Any]
    match pooling:
        case "none":
            pooled = output
        case "cls":
            pooled = output[0]
        case "last":
            pooled = output[length - 1]
        case "max":
            pooled = output[:length].max(axis=0)
        case _:
            pooled = output[:length].mean(axis=0, dtype=np.float64)
    return pooled


def _inputs(session: ort.InferenceSession) -> dict[str, Any]:
    known = (_IDS, _MASK, _TYPES, _POSITIONS)
    inputs = {one.name: _INTEGERS.get(one.type) for one in session.get_inputs()}
    if strange := [name for name, kind in inputs.items() if name not in known or kind is None]:
        raise errors.ModelLoadError(
            f"the graph wants {', '.join(strange)}; an encoder's has {', '.join(known)} as integers"
        )
    if _IDS not in inputs:
        raise errors.ModelLoadError(f"the graph has no input {_IDS}")
    return inputs


def _output(session: ort.InferenceSession, encoder: Encoder) -> str:
    outputs = {one.name: len(one.shape) for one in session.get_outputs()}
    wanted, rank = _STATES, 3
    if encoder.task == "rerank":
        wanted, rank = (_LOGITS,), 2
    elif encoder.pooling == "none":
        wanted, rank = (_POOLED,), 2
    named = [name for name in wanted if name in outputs]
    fit = named or [name for name, own in outputs.items() if own == rank]
    if not fit:
        raise errors.ModelLoadError(
            f"the graph gives {', '.join(outputs)}, and not {' or '.join(wanted)}"
        )
    return fit[0]
