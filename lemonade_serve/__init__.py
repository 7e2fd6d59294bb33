"""Serve many ONNX language models from one machine."""

from importlib.metadata import version

__version__ = version("lemonade-serve")
