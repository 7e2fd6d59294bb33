"""Values that a graph has stored: in itself, or in a file beside it.

onnx's own reader takes no file that has two names, which is what a pulled checkpoint's have.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lemonade_serve.errors import ModelLoadError

if TYPE_CHECKING:
    from onnx import TensorProto


def read_stored(tensor: TensorProto, directory: Path) -> NDArray[Any]:
    """The values of a tensor of a graph in `directory`. Raises ModelLoadError for a file that is
    not there, too short, or outside of the directory."""
    from onnx import external_data_helper, helper, numpy_helper

    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    place = external_data_helper.ExternalDataInfo(tensor)
    path = (directory / place.location).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise ModelLoadError(f"{tensor.name} lies in {path}, outside of the checkpoint")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    try:
        with path.open("rb") as file:
            values = np.fromfile(file, dtype, int(np.prod(shape)), offset=place.offset or 0)
        return values.reshape(shape)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} does not hold {tensor.name}: {error}") from error
