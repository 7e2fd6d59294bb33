"""What a GGUF file says its decoder is, by the name of its architecture.

Only what is known to be converted faithfully is let through: an unknown metadata key under the
architecture's prefix, or a tensor that nothing asks for, is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.architectures.decoder import Decoder
from lemonade_serve.importers.architectures.gemma3 import gemma3
from lemonade_serve.importers.architectures.llama import granite, llama
from lemonade_serve.importers.architectures.phi3 import phi3
from lemonade_serve.importers.architectures.qwen import qwen2, qwen3
from lemonade_serve.importers.container import Container, Metadata, Tensor
from lemonade_serve.importers.levels import FLOAT_TYPES, SUPPORTED

Reader = Callable[[Metadata, Mapping[str, Tensor]], Decoder]

ARCHITECTURES: Final[Mapping[str, Reader]] = {
    "gemma3": gemma3,
    "granite": granite,
    "llama": llama,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
}


def describe(container: Container) -> Decoder:
    """The decoder in the file.

    Errors: `UnsupportedModel` that names the architecture, key, tensor or type at fault.
    """
    metadata = container.metadata
    name = metadata.text("general.architecture")
    reader = ARCHITECTURES.get(name)
    if reader is None:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(f"the architecture {name!r} is not supported; supported: {known}")
    if metadata.integer("split.count", 1) > 1:
        raise UnsupportedModel("this is one part of a split GGUF file; merge the parts first")
    decoder = reader(metadata, container.tensors)
    _check_tensors(decoder, container.tensors)
    return decoder


def _check_tensors(decoder: Decoder, tensors: Mapping[str, Tensor]) -> None:
    expected = dict(decoder.shapes())
    for name in expected:
        if name not in tensors:
            raise UnsupportedModel(f"the tensor {name!r} is missing")
    known = expected | dict(decoder.unused)
    for name, shape in known.items():
        if name in tensors:
            _check_tensor(tensors[name], shape)
    unexpected = sorted(tensors.keys() - known.keys())
    if unexpected:
        raise UnsupportedModel(f"unexpected tensors: {', '.join(map(repr, unexpected[:5]))}")


def _check_tensor(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise UnsupportedModel(
            f"the tensor {tensor.name!r} has the shape {list(tensor.shape)}, not {list(shape)}"
        )
    allowed = FLOAT_TYPES if len(shape) == 1 else SUPPORTED
    if tensor.type not in allowed:
        on_offer = ", ".join(sorted(kind.name for kind in allowed))
        raise UnsupportedModel(
            f"{tensor.name!r} has the type {tensor.type.name}: not supported; supported: {on_offer}"
        )
