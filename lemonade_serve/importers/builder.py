"""onnxruntime-genai's model builder, called as its own command line calls it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from onnxruntime_genai.models import builder

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.protocol.jobs import Recipe

_ROUNDED: Final = frozenset({"int4", "int8"})
_LAYER: Final = re.compile(r"^Reading layer (\d+)")
_ROUNDING: Final = re.compile(r"Progress: \[.*\] ([\d.]+)%")
_SAVING: Final = re.compile(r"^Saving .*:\s+(\d+)%\|")


def build(source: Path, into: Path, recipe: Recipe) -> None:
    """Graph, weights, `genai_config.json` and a tokenizer. Nothing is asked of the hub, and no code
    of the model's own is run. Raises UnsupportedModel for an architecture that it does not know,
    and whatever else goes wrong in torch, transformers and onnx."""
    scratch = into / ".scratch"
    said = ["hf_token=false", "hf_remote=false", "windowed_kv_cache=false"]
    if recipe.dtype in _ROUNDED:
        said += [f"block_size={recipe.block_size}", f"algo_config={recipe.algorithm}"]
    given = ("", str(source), str(into), recipe.dtype, recipe.execution_provider, str(scratch))
    try:
        options = builder.parse_extra_options(*given, said)
        _say_as_it_reads(options["hf_details"]["hf_config"])
        builder.create_model(*given, **options)
    except NotImplementedError as error:
        raise UnsupportedModel(f"the model builder does not know it: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _say_as_it_reads(config: Any) -> None:
    """What transformers says in its own way, and this builder looks for elsewhere: that all layers
    attend to a window (Mistral, Phi 3), or it would be left out; and Gemma 3's two rotary tables,
    or it would fail."""
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    ropes = getattr(config, "rope_parameters", None) or {}
    if {"full_attention", "sliding_attention"} <= set(ropes):
        config.rope_local_base_freq = ropes["sliding_attention"]["rope_theta"]
        config.rope_parameters = ropes["full_attention"]


class BuilderProgress:
    """How far it is, from what it prints."""

    def __init__(self, layers: int, report: Callable[[str, float], None]) -> None:
        self._layers = max(layers, 1)
        self._report = report

    def hear(self, line: str) -> None:
        if found := _LAYER.search(line):
            self._report("building the graph", min(1.0, int(found[1]) / self._layers) * 0.2)
        elif found := _ROUNDING.search(line):
            self._report("quantising", 0.2 + float(found[1]) / 100 * 0.7)
        elif found := _SAVING.search(line):
            self._report("writing the weights", 0.9 + int(found[1]) / 100 * 0.1)
