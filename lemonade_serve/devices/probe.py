"""The probe process: `python -m lemonade_serve.devices.probe NAME HARDWARE` prints a Probe of an
execution provider as JSON.

All that could crash or hang happens here: the provider's library is loaded, lists its devices, and
runs an addition on the one that was asked for.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import signal
from typing import Any

import msgspec

from lemonade_serve.devices.providers import Probe, Seen, same, short

_DRIVERS = {
    ("openvino", "npu"): ("libze_loader.so.1",),
    ("openvino", "gpu"): ("libOpenCL.so.1",),
    ("webgpu", "gpu"): ("libvulkan.so.1",),
}
"""What an execution provider loads by itself to reach a kind of hardware."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lemonade_serve.devices.probe")
    parser.add_argument("name", help="the execution provider's, such as openvino")
    parser.add_argument("hardware", help="what it shall find", choices=["npu", "gpu", "cpu"])
    parser.add_argument("--library", help="where its shared library is")
    parser.add_argument("--option", help="NAME=VALUE for it", action="append", default=[])
    parser.add_argument("--parent", help="the process to end with", type=int)
    asked = parser.parse_args()
    if asked.parent:
        _die_with(asked.parent)
    # native code may print what it likes: only the answer goes to standard output
    answer = os.dup(1)
    os.dup2(2, 1)
    found = _look(asked.name, asked.hardware, asked.library, asked.option)
    os.write(answer, msgspec.json.encode(found))


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was dead before the kernel knew
        raise SystemExit(1)


def _look(name: str, hardware: str, library: str | None, options: list[str]) -> Probe:
    import onnxruntime
    import onnxruntime_genai

    built_in = tuple(onnxruntime.get_available_providers())
    library = library or _installed(name)
    error = ""
    if library:
        try:
            onnxruntime.register_execution_provider_library(name, library)
        except Exception as failure:  # native code's own classes
            error = _plain(failure)
    found = onnxruntime.get_ep_devices()
    own = [d for d in found if same(name, d.ep_name) and _kind(d) == hardware]
    return Probe(
        onnxruntime=onnxruntime.__version__,
        onnxruntime_genai=onnxruntime_genai.__version__,
        built_in=built_in,
        devices=tuple(map(_seen, found)),
        library=library,
        library_error=error,
        session_error=_try_out(own, options) if own else "",
        drivers_missing=tuple(filter(_is_missing, _DRIVERS.get((short(name), hardware), ()))),
    )


def _installed(name: str) -> str | None:
    """The library of the package that brings the plugin; None where there is none."""
    package = f"onnxruntime_ep_{short(name)}"
    try:
        return str(importlib.import_module(package).get_library_path())
    except ModuleNotFoundError as error:
        if error.name and package.startswith(error.name):
            return None
        raise


def _seen(found: Any) -> Seen:
    described = found.ep_metadata.get("FULL_DEVICE_NAME") or found.device.metadata.get(
        "Description", ""
    )
    return Seen(
        provider=found.ep_name, kind=_kind(found), vendor=found.device.vendor, name=described
    )


def _kind(found: Any) -> str:
    return str(found.device.type.name).lower()


def _try_out(devices: list[Any], options: list[str]) -> str:
    """Add two numbers; returns why that did not work. A provider may leave it to the CPU, and then
    it was made ready at least."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    numbers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "abc"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])], "addition", numbers[:2], numbers[2:]
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    try:
        settings.add_provider_for_devices(devices, dict(option.split("=", 1) for option in options))
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
        one = np.ones(1, np.float32)
        (two,) = session.run(None, {"a": one, "b": one})
    except Exception as failure:  # native code's own classes
        return _plain(failure)
    return "" if two[0] == 2 else f"1 + 1 is {two[0]} there"


def _plain(failure: Exception) -> str:
    """Without what ONNX Runtime puts before its messages."""
    *_, text = str(failure).split(" : ", 3)
    return " ".join(text.split())


def _is_missing(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return True
    return False


if __name__ == "__main__":
    main()
