"""Prompts that are so many tokens long, and that no KV cache knows unless it shall."""

from __future__ import annotations

import random

from benchmarks.daemon import new_prompt

Prompt = list[int] | str

_TOKEN_IDS = range(1000, 30_000)
"""Text in every vocabulary of a usual size: special tokens are at its ends."""


class Prompts:
    """Draws them. As token ids a prompt has exactly so many tokens; a server that takes no ids gets
    text, and then its `usage` says how many tokens there really were."""

    def __init__(self, seed: int, *, words_per_token: float | None = None) -> None:
        """`words_per_token`: None means token ids."""
        self.choose = random.Random(seed)  # noqa: S311
        self._words_per_token = words_per_token

    def new(self, tokens: int) -> Prompt:
        if self._words_per_token is None:
            return self.choose.choices(_TOKEN_IDS, k=tokens)
        return new_prompt(self.choose, max(1, round(tokens * self._words_per_token)))

    def after(self, beginning: Prompt | None, tokens: int) -> Prompt:
        """One of so many tokens more, that begins as the other."""
        more = self.new(tokens)
        if beginning is None:
            return more
        if isinstance(beginning, list) and isinstance(more, list):
            return beginning + more
        return f"{beginning} {more}"
