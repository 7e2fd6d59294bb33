"""What is to be embedded."""

from __future__ import annotations

from typing import Any

from lemonade_serve import errors
from lemonade_serve.api.encoding.schemas import MAX_INPUTS
from lemonade_serve.domain.encoding import TextPrompt, TokensPrompt

_FIELD = "input"


def inputs_of(given: str | list[Any]) -> tuple[TextPrompt | TokensPrompt, ...]:
    """A text, token ids, or a list of such. Raises InvalidRequest, naming which one is wrong."""
    many = [given] if isinstance(given, str) or _is_ids(given) else given
    if not many:
        raise errors.InvalidRequest("input is empty", param=_FIELD)
    if len(many) > MAX_INPUTS:
        raise errors.InvalidRequest(
            f"input has {MAX_INPUTS} entries at most, and not {len(many)}", param=_FIELD
        )
    return tuple(_input(one, f"{_FIELD}[{at}]") for at, one in enumerate(many))


def _input(given: Any, named: str) -> TextPrompt | TokensPrompt:
    match given:
        case "" | []:
            raise errors.InvalidRequest(f"{named} is empty", param=_FIELD)
        case str():
            return TextPrompt(given)
        case list() if _is_ids(given):
            return TokensPrompt(tuple(given))
    raise errors.InvalidRequest(f"{named} is neither a text nor token ids", param=_FIELD)


def _is_ids(given: list[Any]) -> bool:
    return bool(given) and all(type(token) is int and 0 <= token < 2**31 for token in given)
