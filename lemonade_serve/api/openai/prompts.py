"""The prompts of a plain completion."""

from __future__ import annotations

from typing import Any, Final

from lemonade_serve import errors
from lemonade_serve.api.openai import requests
from lemonade_serve.domain.completion import TextPrompt, TokensPrompt

MAX_CHOICES: Final = 128
"""Of one request: prompts, times `n`."""


def prompts_of(data: requests.CompletionRequest) -> list[TextPrompt | TokensPrompt]:
    """One or many: each a text or token ids. Raises InvalidRequest."""
    many = _many(data.prompt)
    if (choices := len(many) * (data.n or 1)) > MAX_CHOICES:
        raise errors.InvalidRequest(
            f"an answer has {MAX_CHOICES} choices at most, and not {choices}", param="prompt"
        )
    suffix = data.suffix or None
    if suffix is not None and data.echo:
        raise errors.InvalidRequest(
            "what comes before a suffix is not told with its prompt: leave echo out", param="echo"
        )
    return [_prompt(one, suffix) for one in many]


def _many(given: str | list[Any]) -> list[Any]:
    several = isinstance(given, list) and given and isinstance(given[0], str | list)
    return given if isinstance(given, list) and several else [given]


def _prompt(given: Any, suffix: str | None) -> TextPrompt | TokensPrompt:
    match given:
        case str() as text if text or suffix:
            return TextPrompt(text, suffix)
        case [int(), *_] if all(type(token) is int and 0 <= token < 2**31 for token in given):
            if suffix is None:
                return TokensPrompt(tuple(given))
            raise errors.InvalidRequest("a suffix belongs to a prompt of text", param="suffix")
    raise errors.InvalidRequest(
        "prompt is a text, a list of token ids, or a list of one of these, and not empty",
        param="prompt",
    )
