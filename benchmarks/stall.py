"""What streams notice when a long prompt arrives.

    python -m benchmarks.stall [--rounds 5] [--streams 4] [--prompt 2000] [--chunk-tokens N]
        [--settings KEY=VALUE] [--side NAME:KEY=VALUE,…] [--peer NAME=URL] [--url URL]

Each round, on each side, in an order drawn anew: the long prompt alone, until its first token; then
some streams, and when all are well under way the same long prompt, with other tokens. Gaps between
the streams' texts are told apart by whether they lie before it came or in its prefill, at least in
part. A chunk costs its share of the prefill alone; how many tokens one has is worker's
`prefill_chunk_tokens`, or `--chunk-tokens` for a stranger. Writes benchmarks/results/stall.json,
prints a table. Exits with 1 unless the first side's gap p95 rises by less than a chunk's cost.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks import trial
from benchmarks.prompts import Prompts
from benchmarks.result import parser, quantile
from benchmarks.sides import Side, add_arguments
from benchmarks.streams import Answer
from benchmarks.traffic import Ask, send
from lemonade_serve.settings import Worker

_STREAM_PROMPT_TOKENS = 32
_FIRST_PIECES = 24
"""Streams are under way when bytes came so many times."""
_LONG_OUTPUT_TOKENS = 4
_MOST_TOKENS = 1500
"""Of a stream, which ends when the long prompt has been answered."""


async def measure(side: Side, prompts: Prompts, given: argparse.Namespace) -> dict[str, float]:
    """One round of one side, in ms."""
    target = side.targets[0]

    async def long() -> Answer:
        ask = Ask(target, prompts.new(given.prompt), _LONG_OUTPUT_TOKENS)
        return await trial.answered(send(ask), given)

    alone = await long()
    streams = []
    for _ in range(given.streams):
        ask = Ask(target, prompts.new(_STREAM_PROMPT_TOKENS), _MOST_TOKENS)
        streams.append(await send(ask))
    await asyncio.gather(*(stream.heard(_FIRST_PIECES) for stream in streams))
    arrived = await long()
    for stream in streams:
        stream.hang_up()
        await stream.over(given.patience)
    times = [stream.read().times for stream in streams]
    began, first = max(own[0] for own in times), arrived.times[0]
    before, during = [], []
    for own in times:
        for earlier, later in pairwise(own):
            if began <= earlier and later <= arrived.began:
                before.append(later - earlier)
            elif later > arrived.began and earlier < first:
                during.append(later - earlier)
    assert before, "the streams had no gap before the long prompt came"
    assert during, "the streams were over before the long prompt was read"
    chunk_tokens = chunk_tokens_of(side, given)
    chunks = math.ceil(alone.prompt_tokens / chunk_tokens)
    return {
        "gap_before_p50_ms": quantile(before, 0.5) * 1e3,
        "gap_before_p95_ms": quantile(before, 0.95) * 1e3,
        "gap_during_p50_ms": quantile(during, 0.5) * 1e3,
        "gap_during_p95_ms": quantile(during, 0.95) * 1e3,
        "gap_during_max_ms": max(during) * 1e3,
        "gaps_before": len(before),
        "gaps_during": len(during),
        "rise_ms": (quantile(during, 0.95) - quantile(before, 0.95)) * 1e3,
        "ttft_alone_ms": alone.time_to_first_token * 1e3,
        "ttft_among_streams_ms": arrived.time_to_first_token * 1e3,
        "chunk_tokens": chunk_tokens,
        "chunk_ms": alone.time_to_first_token * 1e3 / chunks,
    }


def chunk_tokens_of(side: Side, given: argparse.Namespace) -> int:
    if side.settings is None:
        return int(given.chunk_tokens)
    said = side.settings.get("WORKER__PREFILL_CHUNK_TOKENS")
    return int(said or Worker().prefill_chunk_tokens)


def show(table: Sequence[dict[str, Any]]) -> None:
    print(
        "side        gap p95 before  during    rise ms  chunk ms (tokens)  rise / chunk (quartiles)"
        "   TTFT alone  among streams ms"
    )
    for row in table:
        low, high = row["rise_of_chunk"]["quartiles"]
        print(
            f"{row['side']:10} {row['gap_before_p95_ms']['median']:15.1f} "
            f"{row['gap_during_p95_ms']['median']:7.1f} {row['rise_ms']['median']:10.1f} "
            f"{row['chunk_ms']['median']:9.1f} ({row['chunk_tokens']['median']:4})    "
            f"{row['rise_of_chunk']['median']:.3f} ({low:.3f} to {high:.3f}) "
            f"{row['ttft_alone_ms']['median']:14.0f} {row['ttft_among_streams_ms']['median']:14.0f}"
        )


def main() -> None:
    arguments = parser(__doc__, "stall", rounds=5)
    arguments.add_argument("--streams", type=int, default=4)
    arguments.add_argument("--prompt", type=int, default=2000, help="tokens of the long prompt")
    arguments.add_argument("--chunk-tokens", type=int, default=512, help="of a stranger")
    add_arguments(arguments)
    given = arguments.parse_args()
    table = trial.run(
        __doc__,
        given,
        measure,
        {"rise_of_chunk": ("rise_ms", "chunk_ms")},
        streams=given.streams,
        prompt_tokens=given.prompt,
    )
    show(table)
    risen = table[0]["rise_of_chunk"]["median"]
    print(f"\nthe first side's gap p95 rises by {risen:.2f} of a chunk's cost (below 1?)")
    sys.exit(risen >= 1)


if __name__ == "__main__":
    main()
