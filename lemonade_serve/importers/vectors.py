"""What an encoder gives for some texts: the checkpoint in our own engine, and the network that it
was made of in torch, which is what a checkpoint is checked against.

A module of jobs that run where the extra `export` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from lemonade_serve.importers.closeness import Closeness
from lemonade_serve.protocol.messages import Encoder, Load, TextPrompt
from lemonade_serve.worker.encoders.graph import EncoderGraph
from lemonade_serve.worker.encoders.reading import Limit, Reader, Row

QUERY: Final = "Where do lemons grow?"
TEXTS: Final = (
    "Lemons grow where winters are mild.",
    "A lemon tree may bear fruit all year round, and needs water, sun and little else.",
    "The train to the coast leaves at noon from platform seven.",
    "Zitronen wachsen am Mittelmeer, in Indien und in Mexiko.",
    "柠檬树喜欢温暖的气候。",
    "def squeeze(lemon): return lemon.juice / 2",
    "No.",
    "In 1747 a ship's surgeon gave two sailors oranges and lemons, two others vinegar, and so on "
    "for six ways of treating scurvy; those who had the fruit were fit for duty in six days, and "
    "one of them nursed the rest. It took the navy another forty years to make it a rule.",
)
"""Of several lengths, languages and kinds: read together, the short ones are padded."""
MAX_TOKENS: Final = 128
"""Of each at the most."""

Vectors = npt.NDArray[np.float64]


def measure(
    checkpoint: Path, graph: str, source: Path, *, ranks: bool, tokens: int, threads: int
) -> Closeness:
    """Both of the same texts, cut to so many tokens. Raises ModelLoadError where the engine cannot
    load it, and whatever torch and onnxruntime raise."""
    limit = Limit(tokens, "the trial's limit")
    reader = Reader(checkpoint / "tokenizer.json", limit, lowercase=False)
    query = QUERY if ranks else None
    rows = [
        reader.read(TextPrompt(text), query, truncate=True, named=f"input[{at}]")
        for at, text in enumerate(TEXTS)
    ]
    encoder = Encoder("rerank" if ranks else "embedding", graph, tokens)
    made = _of_checkpoint(checkpoint, encoder, rows, pad=reader.pad, threads=threads)
    known = _of_source(source, rows, ranks=ranks)
    if ranks:
        known = 1 / (1 + np.exp(-known))
    errors = np.abs(made - known).max(axis=1) if ranks else 1 - _cosines(made, known)
    return Closeness(texts=len(rows), error=max(0.0, float(errors.max())))


def _cosines(some: Vectors, others: Vectors) -> Vectors:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    cosines: Vectors = (some * others).sum(axis=1) / lengths
    return cosines


def _of_checkpoint(
    checkpoint: Path, encoder: Encoder, rows: Sequence[Row], *, pad: int, threads: int
) -> Vectors:
    """`[rows, n]`."""
    load = Load(
        path=str(checkpoint),
        execution_provider="cpu",
        threads=threads,
        sequence_slots=1,
        kv_cache_tokens=0,
        prefill_chunk_tokens=1,
        turn_timeout_s=0,
        engine="auto",
    )
    graph = EncoderGraph(load, encoder, pad=pad)
    return np.stack([graph.finish(one, None) for one in graph.run(rows)]).astype(np.float64)


def _of_source(source: Path, rows: Sequence[Row], *, ranks: bool) -> Vectors:
    """`[rows, n]`, of the weights in float32, a row at a time."""
    kind: Any = AutoModelForSequenceClassification if ranks else AutoModel
    model = kind.from_pretrained(
        source,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    ).eval()
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    found = []
    with torch.inference_mode():
        for row in rows:
            given = {"input_ids": torch.tensor([row.ids])}
            if typed:
                given["token_type_ids"] = torch.tensor([row.types])
            output = model(**given, attention_mask=torch.ones_like(given["input_ids"]))
            value = output.logits[0] if ranks else output.last_hidden_state[0].mean(dim=0)
            found.append(value.double().numpy())
    return np.stack(found)
