"""The probabilities of tokens in OpenAI's words."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

from lemonade_serve.api.answer import Drawn
from lemonade_serve.api.openai import answers
from lemonade_serve.domain.completion import Logprob

_LEAST = -9999.0
"""OpenAI's word for what is all but impossible; JSON has no infinity."""


def chat_logprobs(drawn: Sequence[Drawn]) -> answers.ChatLogprobs:
    return answers.ChatLogprobs(
        content=[
            answers.DrawnToken(
                token=_text(token),
                logprob=_value(token),
                bytes=list(token.text),
                top_logprobs=[
                    answers.LikelyToken(token=_text(one), logprob=_value(one), bytes=list(one.text))
                    for one in likely
                ],
            )
            for token, *likely in drawn
        ]
    )


class TextLogprobs:
    """Those of one sequence, which may come in parts: offsets go on where the last one ended."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, drawn: Sequence[Drawn]) -> answers.TextLogprobs:
        return answers.TextLogprobs(
            tokens=[_text(tokens[0]) for tokens in drawn],
            token_logprobs=[None if _is_first(tokens) else _value(tokens[0]) for tokens in drawn],
            top_logprobs=[None if _is_first(tokens) else _by_text(tokens) for tokens in drawn],
            text_offset=[self._pass(tokens[0]) for tokens in drawn],
        )

    def _pass(self, token: Logprob) -> int:
        """Where it begins. All tokens of one character begin where the character does, and what
        comes after a control token where that does."""
        begins = self._offset
        if not token.silent:
            self._offset += len(self._decoder.decode(token.text))
        return begins


def _is_first(tokens: Drawn) -> bool:
    """Of a prompt: nothing comes before it that could tell."""
    return math.isnan(tokens[0].logprob)


def _by_text(tokens: Drawn) -> dict[str, float]:
    """Where several look alike, the one that was drawn counts, then the most likely."""
    return {_text(token): _value(token) for token in reversed(tokens)}


def _text(token: Logprob) -> str:
    """What of its bytes is no UTF-8 by itself is escaped."""
    return token.text.decode("utf-8", "backslashreplace")


def _value(token: Logprob) -> float:
    return max(token.logprob, _LEAST)
