"""ONNX nodes and initialisers in the making."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lemonade_serve.importers.plan import Stored

DATA_NAME: Final = "model.onnx.data"
MICROSOFT: Final = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_ELEMENTS: Final = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


class Nodes:
    """The body of a graph. Values are named after the operator that makes them."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initialisers: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node of one output; returns the output's name."""
        return self.add_many(operator, 1, *inputs, domain=domain, **attributes)[0]

    def add_many(
        self, operator: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node; returns the names of its outputs."""
        name = f"{operator}_{len(self.nodes)}"
        names = [name if index == 0 else f"{name}:{index}" for index in range(outputs)]
        self.append(operator, inputs, names, domain=domain, **attributes)
        return names

    def append(
        self,
        operator: str,
        inputs: tuple[str, ...],
        outputs: list[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Append a node whose outputs have names already."""
        node = helper.make_node(
            operator, inputs, outputs, f"{operator}_{len(self.nodes)}", domain=domain, **attributes
        )
        self.nodes.append(node)

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """An initialiser inside the graph."""
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(values, name)
        return name

    def shape(self, *lengths: int) -> str:
        """An int64 vector."""
        return self.constant("ints_" + "_".join(map(str, lengths)), np.array(lengths, np.int64))

    def stored(self, place: Stored, name: str = "", shape: tuple[int, ...] = ()) -> str:
        """An initialiser in the data file; another name and shape make a second view of it."""
        proto = TensorProto(
            name=name or place.name,
            data_type=_ELEMENTS[place.element],
            dims=shape or place.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", DATA_NAME),
            ("offset", place.offset),
            ("length", place.nbytes),
        ):
            proto.external_data.add(key=key, value=str(value))
        self.initialisers[proto.name] = proto
        return str(proto.name)
