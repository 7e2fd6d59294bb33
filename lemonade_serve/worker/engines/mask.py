"""What a graph computes of its attention mask.

GroupQueryAttention reads two values of it: where each row's last token is, and how wide the mask
is. Exporters write that down in many ways; so the few nodes that compute it are cut out of the
graph, and tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from lemonade_serve import errors
from lemonade_serve.worker.engines.stored import read_stored

if TYPE_CHECKING:
    from onnx import ModelProto

_ROWS: Final = ((1,), (3,), (2, 5), (4, 1, 3), (1, 1))
"""Lengths of the rows of masks to try."""

_MARGIN: Final = 3
"""A mask may be so much wider than its longest row."""

_Integers = npt.NDArray[np.int64]


class MaskUse:
    """How the nodes of `model`, the file `path`, use the input `mask` to compute the `lasts`, which
    should be the index of each row's last token, and the `widths`, which should be the mask's, or
    the longest row's."""

    def __init__(
        self, model: ModelProto, path: Path, mask: str, *, lasts: set[str], widths: set[str]
    ) -> None:
        self._model = model
        self._path = path
        self._mask = mask
        self._lasts = sorted(lasts)
        self._widths = sorted(widths)
        self._nodes, self._sources = self._ancestors()

    def fault(self) -> str | None:
        """Why rows of different lengths cannot be told apart by the mask, or None.

        Raises ModelLoadError where ONNX Runtime does not run the nodes.
        """
        if others := self._sources - {self._mask}:
            return f"the lengths of its rows depend on {min(others)}"
        if reader := self._other_reader():
            return f"{reader} reads its attention mask"
        if not all(self._are_right(*tried) for tried in self._tried()):
            return "the lengths of its rows are not those of its attention mask"
        return None

    def _ancestors(self) -> tuple[list[int], set[str]]:
        """The nodes that compute the values, and the names that they start from, stored ones left
        out."""
        graph = self._model.graph
        makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
        stored = {tensor.name for tensor in graph.initializer}
        nodes: set[int] = set()
        sources: set[str] = set()
        pending = self._lasts + self._widths
        while pending:
            name = pending.pop()
            if name not in makers:
                sources |= {name} - stored
            elif makers[name] not in nodes:
                nodes.add(makers[name])
                pending += filter(None, graph.node[makers[name]].input)
        return sorted(nodes), sources

    def _other_reader(self) -> str | None:
        """An operator that reads what comes of the mask for another end."""
        derived = {self._mask}
        for index, node in enumerate(self._model.graph.node):
            read = [place for place, name in enumerate(node.input) if name in derived]
            if index in self._nodes and read:
                derived.update(node.output)
            elif read and not (node.op_type == "GroupQueryAttention" and {*read} <= {5, 6}):
                return str(node.op_type)
        return None

    def _tried(self) -> Iterator[tuple[_Integers, int, dict[str, _Integers]]]:
        """Lengths of rows, a mask's width, and the values for a mask that says them."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        names = self._lasts + self._widths
        try:
            session = onnxruntime.InferenceSession(
                self._cut(names), options, providers=["CPUExecutionProvider"]
            )
            for rows in map(np.array, _ROWS):
                for width in (rows.max(), rows.max() + _MARGIN):
                    mask = (np.arange(width) < rows[:, None]).astype(np.int64)
                    values = session.run(names, {self._mask: mask})
                    yield rows, width, dict(zip(names, values, strict=True))
        except Exception as error:  # the library's errors have no common base of their own
            raise errors.ModelLoadError(f"{self._path}: its mask's nodes: {error}") from error

    def _cut(self, names: list[str]) -> bytes:
        """A model of those nodes alone."""
        from onnx import TensorProto, helper, numpy_helper

        graph = self._model.graph
        nodes = [graph.node[index] for index in self._nodes]
        read = {name for node in nodes for name in node.input}
        stored = [
            numpy_helper.from_array(read_stored(tensor, self._path.parent), tensor.name)
            for tensor in graph.initializer
            if tensor.name in read
        ]
        mask = helper.make_tensor_value_info(self._mask, TensorProto.INT64, ["rows", "width"])
        values = [helper.make_tensor_value_info(name, TensorProto.INT32, None) for name in names]
        model = helper.make_model(
            helper.make_graph(nodes, "mask", [mask], values, stored),
            ir_version=self._model.ir_version,
            opset_imports=self._model.opset_import,
        )
        content: bytes = model.SerializeToString()
        return content

    def _are_right(self, rows: _Integers, width: int, values: dict[str, _Integers]) -> bool:
        return all(_is(values[name], rows - 1) for name in self._lasts) and all(
            values[name].size == 1 and rows.max() <= values[name].item() <= width
            for name in self._widths
        )


def _is(value: _Integers, expected: Iterable[int]) -> bool:
    return value.reshape(-1).tolist() == list(expected)
