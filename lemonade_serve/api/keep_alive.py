"""How long a model stays after a request, as clients of Ollama write it."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from lemonade_serve import errors

_WORDS = r"^(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?$"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Words = Annotated[str, Meta(pattern=_WORDS, examples=["5m", "300s", "-1"])]
"""A number of seconds, or with a unit after it."""

KeepAlive = Annotated[float, Meta(ge=-1e9, le=1e9)] | Words
"""Seconds, or words; negative: for ever; 0: unload as soon as it is idle."""


def seconds(keep_alive: float | str | None) -> float | None:
    """As the domain wants it. Raises InvalidRequest for words that are none of these."""
    if not isinstance(keep_alive, str):
        return keep_alive
    if not (match := re.fullmatch(_WORDS, keep_alive)):
        raise errors.InvalidRequest(
            "keep_alive is a number of seconds, or a number with ms, s, m or h after it",
            param="keep_alive",
        )
    return float(match[1]) * _UNITS[match[2] or "s"]
