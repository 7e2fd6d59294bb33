"""Serve many ONNX language models from one machine."""

import os
from importlib.metadata import version

# ONNX Runtime's own builds keep an id of this machine and send Microsoft what they do (its
# Privacy.md). It is read when the library is loaded, in workers and jobs, which inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = version("lemonade-serve")
