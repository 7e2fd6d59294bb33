"""An encoder's checkpoint, loaded and warm."""

from __future__ import annotations

from pathlib import Path

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Encoder, Load, TextPrompt
from lemonade_serve.worker.encoders.graph import EncoderGraph
from lemonade_serve.worker.encoders.reading import Limit, Reader
from lemonade_serve.worker.engines.base import failure_code

NAME = "encoder"
_WARM_UP = TextPrompt("warm")


def open_encoder(load: Load, encoder: Encoder) -> tuple[EncoderGraph, Reader, str]:
    """The graph, its reader, and how it is run. Raises ModelLoadError, and NoCapacity where there
    is no memory."""
    limit = Limit(encoder.limit(load.encode_input_tokens), "this model's limit")
    if limit.tokens < encoder.max_tokens:
        limit = limit._replace(why="worker.encode_input_tokens")
    file = Path(load.path, "tokenizer.json")
    reader = Reader(file, limit, prompt=encoder.prompt, lowercase=encoder.lowercase)
    try:
        graph = EncoderGraph(load, encoder, pad=reader.pad)
        query = "warm" if encoder.task == "rerank" else None
        graph.warm_up(reader.read(_WARM_UP, query, truncate=True, named="input[0]"))
    except errors.LemonadeError:
        raise
    except Exception as error:  # native code raises anything, std::bad_alloc included
        if failure_code(error) == errors.NoCapacity.code:
            raise errors.NoCapacity(f"there is no memory to load it: {error}") from error
        raise errors.ModelLoadError(str(error)) from error
    return graph, reader, _why(encoder)


def _why(encoder: Encoder) -> str:
    if encoder.alone:
        return "it encodes one input at a time: the graph scales all of a batch together"
    return f"it is an encoder, for {encoder.task}, that takes inputs in batches"
