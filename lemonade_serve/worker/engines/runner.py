"""A decoder's graph in ONNX Runtime, over a KV cache that it reads and writes in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lemonade_serve.worker.engines.cache import KvCache
from lemonade_serve.worker.engines.choice import Decoder
from lemonade_serve.worker.engines.fusion import fuse_products
from lemonade_serve.worker.sampler import Logits

_OPTIONS: Final = {
    "session.force_spinning_stop": "1",  # between two runs the cores are others'
    "session.use_device_allocator_for_initializers": "1",  # no arena's rounding around weights
}

_WEIGHTS: Final = "session.model_external_initializers_file_folder_path"
"""Where the files are that a model names which is itself in none."""

_MARGIN: Final = 64


class Runner:
    """Runs `decoder` with so many threads; `rows` sequences of `capacity` tokens have a place.

    Where one row alone would be rounded differently than among others, a row of no sequence comes
    along with the first one. Raises what ONNX Runtime raises: RuntimeError and its kin, of which
    some mean that there is no memory.
    """

    def __init__(self, decoder: Decoder, *, threads: int, rows: int, capacity: int) -> None:
        self._session = _open(decoder.model, threads)
        self._decoder = decoder
        self._capacity = capacity
        self._companions = decoder.least_rows - 1
        self.cache = KvCache(
            layers=len(decoder.past_keys),
            rows=rows + self._companions,
            heads=decoder.kv_heads,
            capacity=capacity,
            head_size=decoder.head_size,
            dtype=np.dtype(decoder.cache_dtype),
        )
        self.first = self._companions
        """The first sequence's row of the cache."""
        self._bindings: dict[tuple[int, int], Any] = {}
        self._steps: dict[tuple[int, int], _Step] = {}
        self._logits = np.empty(
            (rows + self._companions, 1, decoder.vocabulary), decoder.logits_dtype
        )

    def run(self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Logits:
        """Read `tokens` (rows, positions) into the rows from `first` on, row i of which holds
        `lengths[i]` tokens; returns the logits of each row's last position, which the next run
        overwrites."""
        return self._read(first, tokens, lengths)[:, -1].astype(np.float32, copy=False)

    def run_all(self, row: int, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Logits:
        """As `run` with one row, for the logits of all its positions. Not for a graph that gives
        the last position only."""
        every: Logits = self._read(row, tokens, lengths)[0].astype(np.float32, copy=False)
        return every

    def _read(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[Any]:
        if tokens.size == 1 and first == self.first and self._companions:
            alone = np.zeros((self._companions, 1), np.int64)
            tokens, lengths = np.vstack([alone, tokens]), np.append(alone, lengths)
            return self._run(0, tokens, lengths)[self._companions :]
        return self._run(first, tokens, lengths)

    def _run(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[Any]:
        rows, positions = tokens.shape
        logits = self._logits[:rows]
        if positions == 1:
            binding = self._step(first, rows).bound(tokens, lengths)
        else:
            binding = self._binding(first, rows)
            ends = lengths + positions
            mask = (np.arange(ends.max()) < ends[:, None]).astype(np.int64)
            _bind(binding, self._decoder.input_ids, tokens)
            _bind(binding, self._decoder.attention_mask, mask)
            if self._decoder.position_ids:
                at = lengths[:, None] + np.arange(positions)
                _bind(binding, self._decoder.position_ids, at)
            if not self._decoder.last_position_only:
                shape = (rows, positions, self._decoder.vocabulary)
                logits = np.empty(shape, self._decoder.logits_dtype)
            self._bind_logits(binding, logits)
        self._session.run_with_iobinding(binding)
        return logits

    def _step(self, first: int, rows: int) -> _Step:
        """Kept, like the bindings of prompts: a step is short, and feels every call."""
        if known := self._steps.get((first, rows)):
            return known
        binding = self._new_binding(first, rows)
        self._bind_logits(binding, self._logits[:rows])
        step = _Step(binding, self._decoder, rows, capacity=self._capacity)
        self._steps[first, rows] = step
        return step

    def _bind_logits(self, binding: Any, logits: NDArray[Any]) -> None:
        name, place = self._decoder.logits, logits.ctypes.data
        binding.bind_output(name, "cpu", 0, logits.dtype, logits.shape, place)

    def _binding(self, first: int, rows: int) -> Any:
        """Kept, because there are few of them and each takes a call for every layer's input and
        output."""
        if (first, rows) not in self._bindings:
            self._bindings[first, rows] = self._new_binding(first, rows)
        return self._bindings[first, rows]

    def _new_binding(self, first: int, rows: int) -> Any:
        """Of the caches of some rows, past and present being the same memory."""
        binding = self._session.io_binding()
        decoder = self._decoder
        for side, past, present in (
            (0, decoder.past_keys, decoder.present_keys),
            (1, decoder.past_values, decoder.present_values),
        ):
            for layer, (read, written) in enumerate(zip(past, present, strict=True)):
                values = self.cache.side(layer, side, first, rows)
                place = ("cpu", 0, values.dtype, values.shape, values.ctypes.data)
                binding.bind_input(read, *place)
                binding.bind_output(written, *place)
        return binding


def _open(model: Path, threads: int) -> ort.InferenceSession:
    graph = fuse_products(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in (*_OPTIONS.items(), (_WEIGHTS, str(model.parent))):
        options.add_session_config_entry(name, value)
    values = [ort.OrtValue.ortvalue_from_numpy(value) for value in graph.stored.values()]
    options.add_external_initializers(list(graph.stored), values)
    return ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])


class _Step:
    """What one token for each of some rows needs of inputs, bound once: from a step to the next
    only a few numbers of them change. The mask is wider than the longest row, by up to `_MARGIN`,
    so that it seldom has to grow."""

    def __init__(self, binding: Any, decoder: Decoder, rows: int, *, capacity: int) -> None:
        self._binding = binding
        self._mask_name = decoder.attention_mask
        self._capacity = capacity
        self._rows = np.arange(rows)
        self._tokens = np.zeros((rows, 1), np.int64)
        _bind(binding, decoder.input_ids, self._tokens)
        self._positions = np.zeros((rows, 1), np.int64)
        if decoder.position_ids:
            _bind(binding, decoder.position_ids, self._positions)
        self._mask = np.zeros((rows, 0), np.int64)
        self._ends = np.zeros(rows, np.int64)

    def bound(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Any:
        """The binding, with these inputs."""
        self._tokens[:] = tokens
        self._positions[:, 0] = lengths
        longest = int(lengths.max())
        if longest < self._mask.shape[1] and (lengths == self._ends).all():
            self._mask[self._rows, lengths] = 1
        else:
            width = min(self._capacity, longest + _MARGIN)
            self._mask = (np.arange(width) <= lengths[:, None]).astype(np.int64)
            _bind(self._binding, self._mask_name, self._mask)
        self._ends = lengths + 1
        return self._binding


def _bind(binding: Any, name: str, values: NDArray[np.int64]) -> None:
    """The memory is not copied: whoever calls keeps it until the run is over."""
    binding.bind_input(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
