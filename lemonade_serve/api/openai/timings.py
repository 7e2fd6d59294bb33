"""How long an answer took, as llama-server says it."""

from __future__ import annotations

import msgspec

from lemonade_serve.domain.completion import Generation


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """`prompt_n` tokens were read, `cache_n` were known before; times are milliseconds. A rate over
    no time is 0."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


def timings_of(generation: Generation) -> Timings:
    read = generation.prompt_tokens - generation.cached_tokens
    said = generation.completion_tokens
    reading, saying = (1000 * (s or 0.0) for s in (generation.prefill_s, generation.decode_s))
    return Timings(
        cache_n=generation.cached_tokens,
        prompt_n=read,
        prompt_ms=round(reading, 3),
        prompt_per_token_ms=_share(reading, read),
        prompt_per_second=_share(1000 * read, reading),
        predicted_n=said,
        predicted_ms=round(saying, 3),
        predicted_per_token_ms=_share(saying, said),
        predicted_per_second=_share(1000 * said, saying),
    )


def _share(whole: float, parts: float) -> float:
    return round(whole / parts, 3) if parts else 0.0
