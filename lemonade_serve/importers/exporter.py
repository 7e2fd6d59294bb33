"""What converts models: packages of the extra `export`, and only in an environment that has it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from lemonade_serve.protocol.jobs import Exporter

_PACKAGES: Final = ("torch", "transformers", "onnx-ir", "onnxruntime-genai")
_TO_ENCODE: Final = ("torch", "transformers", "onnx-ir", "optimum-onnx", "onnxruntime")


def find_exporter(*, encoders: bool = False) -> Exporter:
    """Of what generates, or of encoders. Imports none of them."""
    programs, missing = [], []
    for package in _TO_ENCODE if encoders else _PACKAGES:
        try:
            programs.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    return Exporter(tuple(programs), tuple(missing))
