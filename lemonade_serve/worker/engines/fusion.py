"""Products that read the same values, done as one.

Exporters write a layer's projections down apart: query, key and value, gate and up. Each product is
a call to all threads and a wait for the last one, and a step of one token is little else; so those
that read the same are joined when the graph is loaded, and what comes out is split again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemonade_serve.worker.engines.stored import read_stored

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_PRODUCT: Final = ("com.microsoft", "MatMulNBits")
_ROUNDED_ALIKE: Final = 4
"""The accuracy level at which a column of a product is the same bits, whatever stands beside it."""
_PARAMETERS: Final = slice(1, None)
"""Among a product's inputs: quants, scales and zero points, one row of blocks for each column."""
_MOST_INPUTS: Final = 4
_QUANTS: Final = 1
_LARGEST_BYTES: Final = 8 << 20
"""Of quants in a joined product. Products that take longer by themselves gain next to nothing by a
wait less, and while a graph is loaded the joined ones are in memory once more."""
_NOWHERE: Final = "joined"
"""The file that joined values would lie in, if they did."""
_APART: Final = "N"
"""The attribute that products may differ in: the number of columns."""


class FusedGraph(NamedTuple):
    """A model, and the stored values of it that are in no file, by name."""

    model: bytes
    stored: dict[str, NDArray[Any]]


def fuse_products(path: Path) -> FusedGraph:
    """The graph in the file `path`, with its products joined: bit for bit what it was.

    Reads the weights of these, and copies them once. Raises ModelLoadError where they are not
    there, and onnx's own errors for what is no model.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return _Fusion(model, path.parent).graph()


class _Fusion:
    """Of one model, whose weights lie in `directory`."""

    def __init__(self, model: ModelProto, directory: Path) -> None:
        self._model = model
        self._directory = directory
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers = Counter(name for node in model.graph.node for name in node.input)
        self._stored: dict[str, NDArray[Any]] = {}

    def graph(self) -> FusedGraph:
        graph = self._model.graph
        groups = list(self._groups())
        if groups:
            replaced = {group[0].output[0]: self._joined(group) for group in groups}
            gone = {node.output[0] for group in groups for node in group[1:]}
            nodes = [
                new
                for node in graph.node
                if node.output[0] not in gone
                for new in replaced.get(node.output[0], (node,))
            ]
            del graph.node[:]
            graph.node.extend(nodes)
            del graph.initializer[:]
            graph.initializer.extend(self._tensors.values())
        return FusedGraph(self._model.SerializeToString(), self._stored)

    def _groups(self) -> Iterator[list[NodeProto]]:
        """Two products and more that read the same and are of one kind."""
        alike: dict[tuple[Any, ...], list[NodeProto]] = defaultdict(list)
        for node in self._model.graph.node:
            if (node.domain, node.op_type) == _PRODUCT and self._is_own(node):
                alike[node.input[0], *self._kind(node)].append(node)
        return (group for group in alike.values() if len(group) > 1 and self._is_small(group))

    def _is_small(self, group: list[NodeProto]) -> bool:
        quants = (self._tensors[node.input[_QUANTS]].dims for node in group)
        return sum(map(prod, quants)) <= _LARGEST_BYTES

    def _is_own(self, node: NodeProto) -> bool:
        """Whether its weights are stored, and nobody else's."""
        names = node.input[_PARAMETERS]
        return len(node.input) <= _MOST_INPUTS and all(
            name in self._tensors and self._readers[name] == 1 for name in names
        )

    def _kind(self, node: NodeProto) -> tuple[Any, ...]:
        """What products have in common that can be one; its own name for one that cannot."""
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if attributes.get("accuracy_level") != _ROUNDED_ALIKE:
            return (node.output[0],)
        types = (self._tensors[name].data_type for name in node.input[_PARAMETERS])
        shared = sorted(pair for pair in attributes.items() if pair[0] != _APART)
        return (*shared, *types)

    def _joined(self, group: list[NodeProto]) -> tuple[NodeProto, NodeProto]:
        """The one product, and the Split behind it."""
        from onnx import helper, numpy_helper

        name = f"{group[0].output[0]}/joined"
        columns = [
            next(attribute.i for attribute in node.attribute if attribute.name == _APART)
            for node in group
        ]
        product = helper.make_node(group[0].op_type, [group[0].input[0]], [name], name)
        product.CopyFrom(group[0])
        product.name = product.output[0] = name
        for attribute in product.attribute:
            if attribute.name == _APART:
                attribute.i = sum(columns)
        for place in range(len(product.input))[_PARAMETERS]:
            product.input[place] = self._store([node.input[place] for node in group], name)
        sizes = numpy_helper.from_array(np.array(columns, np.int64), f"{name}/columns")
        self._tensors[sizes.name] = sizes
        outputs = [node.output[0] for node in group]
        split = helper.make_node("Split", [name, sizes.name], outputs, f"{name}/split", axis=-1)
        return product, split

    def _store(self, names: list[str], product: str) -> str:
        """One stored value in place of several, end to end."""
        from onnx import TensorProto

        parts = [self._tensors.pop(name) for name in names]
        values = np.concatenate([read_stored(part, self._directory) for part in parts])
        name = f"{product}/{names[0]}"
        tensor = TensorProto(
            name=name,
            data_type=parts[0].data_type,
            dims=values.shape,
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value=_NOWHERE)
        self._tensors[name], self._stored[name] = tensor, values
        return name
