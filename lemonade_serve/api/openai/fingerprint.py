"""What makes two answers comparable."""

from __future__ import annotations

import functools
import hashlib

from lemonade_serve import __version__
from lemonade_serve.domain.completion import Generation


def fingerprint_of(generation: Generation) -> str:
    """The same seed gives the same text where this is the same: OpenAI's `system_fingerprint`."""
    return _digest(generation.model, generation.dtype, generation.device, generation.engine)


@functools.lru_cache(maxsize=256)
def _digest(*facts: str) -> str:
    return f"fp_{hashlib.sha256(repr((__version__, *facts)).encode()).hexdigest()[:10]}"
