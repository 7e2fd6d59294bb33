"""Filling in the middle: the tokens by which a model was trained to write between two texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from tokenizers import Tokenizer

_WORDS: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001, as DeepSeek spells them
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""Of Qwen and CodeGemma, StarCoder and Granite, SantaCoder, DeepSeek, Code Llama: what comes
before the prefix, before the suffix and before the middle, in this order (PSM)."""


class Infill(NamedTuple):
    """The ids of the three."""

    prefix: int
    suffix: int
    middle: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Those of a vocabulary; None if it has none."""
        for words in _WORDS:
            known = [tokenizer.token_to_id(word) for word in words]
            ids = [id for id in known if id is not None]
            if len(ids) == len(words):
                return cls(*ids)
        return None

    def join(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The prompt that asks for what lies between."""
        return [self.prefix, *before, self.suffix, *after, self.middle]
