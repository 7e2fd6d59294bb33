"""The model that a checkpoint is made of, as transformers runs it: what it foretells of a text.

The only module besides `builder` that knows torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from lemonade_serve.importers.scores import Ids, Logits

_ROWS = 64


def reference_logits(source: Path, ids: Ids, *, threads: int) -> Iterator[Logits]:
    """After each of the ids, some `[k, vocabulary]` at a time: in float32, of the weights as they
    are. They stay in memory in their own dtype, and a module's are float32 while it computes."""
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(_widen)
            module.register_forward_hook(_narrow)
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
    for at in range(0, len(ids), _ROWS):
        yield logits[at : at + _ROWS].float().numpy()


def _widen(module: torch.nn.Module, inputs: Any) -> None:
    module.own_weights = [weights.data for weights in module.parameters(recurse=False)]
    for weights in module.parameters(recurse=False):
        weights.data = weights.data.float()


def _narrow(module: torch.nn.Module, inputs: Any, output: Any) -> None:
    for weights, own in zip(module.parameters(recurse=False), module.own_weights, strict=True):
        weights.data = own
    del module.own_weights
