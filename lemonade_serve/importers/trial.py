"""A checkpoint on trial, as onnxruntime-genai runs it: what it answers, what it foretells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from lemonade_serve.importers.scores import Ids, Logits

_CHUNK_TOKENS = 32


class Trial:
    """A checkpoint that is loaded, on the CPU whatever it is made for: `threads` compute. Raises
    what onnxruntime-genai does where it cannot load it."""

    def __init__(self, checkpoint: Path, *, threads: int) -> None:
        config = og.Config(str(checkpoint))
        config.clear_providers()
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = og.Model(config)

    def answer(self, prompt: Ids, tokens: int) -> list[int]:
        """So many of the likeliest tokens after a prompt."""
        generator = self.generator(len(prompt) + tokens)
        generator.append_tokens(prompt)
        answer: list[int] = []
        for _ in range(tokens):
            answer.append(int(np.asarray(generator.get_logits()).reshape(-1).argmax()))
            generator.append_tokens(np.array(answer[-1:], np.int32))
        return answer

    def logits(self, ids: Ids) -> Iterator[Logits]:
        """After each of the ids, some `[k, vocabulary]` at a time."""
        generator = self.generator(len(ids) + 1)
        generator.append_tokens(ids[:2])
        rows = _rows(generator)
        if len(rows) != 2:  # a graph of the last position's logits alone
            generator.rewind_to(0)
            rows = np.empty((0, rows.shape[-1]), np.float32)
        step = _CHUNK_TOKENS if len(rows) else 1
        yield rows
        for at in range(len(rows), len(ids), step):
            generator.append_tokens(ids[at : at + step])
            yield _rows(generator)

    def generator(self, tokens: int) -> og.Generator:
        """Of one sequence with so many tokens."""
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=tokens, batch_size=1)
        return og.Generator(self._model, params)


def _rows(generator: og.Generator) -> Logits:
    logits = np.asarray(generator.get_output("logits"))
    rows: Logits = logits.reshape(-1, logits.shape[-1]).astype(np.float32)
    return rows
