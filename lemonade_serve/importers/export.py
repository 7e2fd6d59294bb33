"""An encoder's graph out of its weights, by optimum, in a directory as `hub/encoders.py` reads it.

A module of jobs that run where the extra `export` is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from optimum.exporters.onnx import main_export

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.rounding import rounded

GRAPH: Final = "onnx/model.onnx"

_EXPORTED: Final = "model.onnx"
_TASKS: Final = {True: "text-classification", False: "feature-extraction"}
_DESCRIBING: Final = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("[0-9]*_*/config.json", "LICENSE*"),
)
"""Served as they are, beside the graph."""


def export(
    source: Path,
    into: Path,
    dtype: str,
    *,
    ranks: bool,
    block_size: int,
    rounding: Callable[[], None],
) -> None:
    """A graph in `int8`, `fp16` or `fp32`, and beside it what describes it. `ranks`: the source is
    a classifier; `rounding` is called between the two steps. Nothing is asked of the hub, and no
    code of the model's own is run.

    Raises UnsupportedModel for what optimum does not know, and whatever else goes wrong in torch,
    transformers and onnx.
    """
    scratch = into / ".scratch"
    try:
        _export(source, scratch, _TASKS[ranks])
        rounding()
        rounded(scratch / _EXPORTED, into / GRAPH, dtype, block_size=block_size)
        for pattern in _DESCRIBING:
            for path in source.glob(pattern):
                _copy(path, into / path.relative_to(source))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _export(source: Path, into: Path, task: str) -> None:
    try:
        main_export(
            str(source),
            into,
            task=task,
            dtype="fp32",
            library_name="transformers",  # and not sentence-transformers: pooling is done here
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            do_validation=False,  # our own is stricter
        )
    except ValueError as error:
        raise UnsupportedModel(f"optimum cannot export it: {error}") from error


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
