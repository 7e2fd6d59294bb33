"""What a token costs between the engine's step and the socket, and the API process altogether.

    python -m benchmarks.delivery [--rounds 5] [--streams 8] [--tokens 256]
        [--settings KEY=VALUE]

Two daemons take turns, in an order drawn anew each round. One notes for every token how old it was
when its bytes had been handed to Granian (benchmarks/handover.py): by the clock that the processes
of one machine share, from right after the worker had sampled it. It counts what lies between that
all streams have had text and that the first one ends. The other is `lemonade-serve serve` itself:
of its API process, all threads of it, the CPU time is read at the same two moments. The client
shares the cores with both. Writes benchmarks/results/delivery.json, prints a table. Exits with 1
unless 95 % of the tokens took less than 1 ms, and the API process less than 10 % of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.daemon import daemon, shelf
from benchmarks.figures import of_rounds
from benchmarks.handover import Handover, read
from benchmarks.prompts import Prompts
from benchmarks.result import find_checkpoint, parser, quantile, save, spread
from benchmarks.sides import Side, api_process, by_turns, own_side, parse_settings, warm_up
from benchmarks.streams import Exchange
from benchmarks.traffic import Ask, send

_NOTED, _PLAIN = "noted", "plain"
_PROMPT_TOKENS = 32
_FIRST_PIECES = 4
"""A stream decodes when bytes came so many times."""
_ALLOWED_MS, _ALLOWED_SHARE = 1.0, 0.1


async def decode(side: Side, prompts: Prompts, given: argparse.Namespace) -> dict[str, Any]:
    """So many streams at once: from when to when all decoded, by the system's monotonic clock, and
    the share of a core that the API process used meanwhile."""
    api = await asyncio.to_thread(api_process, side)
    asks = [
        Ask(side.targets[0], prompts.new(_PROMPT_TOKENS), given.tokens)
        for _ in range(given.streams)
    ]
    streams = [await send(ask) for ask in asks]
    await asyncio.gather(*(stream.heard(_FIRST_PIECES) for stream in streams))
    began, used = time.monotonic(), cpu_s(api)
    ends = [asyncio.create_task(stream.over(given.patience)) for stream in streams]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    ended, used = time.monotonic(), cpu_s(api) - used
    await asyncio.gather(*ends)
    return {"window": (began, ended), "api_cpu_share": used / (ended - began), **_pace(streams)}


def _pace(streams: Sequence[Exchange]) -> dict[str, float]:
    answers = [stream.read() for stream in streams]
    problems = [answer.problem for answer in answers if answer.problem]
    assert not problems, problems[0]
    wall = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    return {"tokens_per_s": sum(answer.completion_tokens for answer in answers) / wall}


def cpu_s(process: psutil.Process) -> float:
    """All its threads', in user and system mode; children not counted."""
    times = process.cpu_times()
    return float(times.user + times.system)


def summary(rows: Sequence[dict[str, Any]], handovers: Sequence[Handover]) -> dict[str, Any]:
    """All tokens of all rounds together; of the CPU share the median and quartiles."""
    took = [
        one.took
        for row in rows
        for one in handovers
        if row[_NOTED]["window"][0] <= one.at <= row[_NOTED]["window"][1]
    ]
    assert took, "no token was noted"
    return {
        "rounds": len(rows),
        "tokens": len(took),
        **{f"handover_{name}_ms": value * 1e3 for name, value in spread(took).items()},
        "handover_p99_ms": quantile(took, 0.99) * 1e3,
        "api_cpu_share": of_rounds(row[_PLAIN]["api_cpu_share"] for row in rows),
        "tokens_per_s": of_rounds(row[_PLAIN]["tokens_per_s"] for row in rows),
    }


def show(table: dict[str, Any]) -> None:
    times = " ".join(f"{q} {table[f'handover_{q}_ms']:.2f}" for q in ("p50", "p95", "p99", "max"))
    print(f"from sampled to handed over, ms: {times} ({table['tokens']} tokens)")
    low, high = table["api_cpu_share"]["quartiles"]
    print(
        f"CPU of the API process: {table['api_cpu_share']['median']:.1%} of a core "
        f"({low:.1%} to {high:.1%}), at {table['tokens_per_s']['median']:.0f} tokens/s"
    )


def main() -> None:
    arguments = parser(__doc__, "delivery", rounds=5)
    arguments.add_argument("--streams", type=int, default=8)
    arguments.add_argument("--tokens", type=int, default=256, help="of each stream")
    arguments.add_argument("--patience", type=float, default=600, help="s for a request")
    arguments.add_argument("--settings", action="append", default=[], metavar="KEY=VALUE")
    given = arguments.parse_args()
    checkpoint, settings = find_checkpoint(given), parse_settings(given.settings)
    with tempfile.TemporaryDirectory() as scratch:
        notes = Path(scratch, "handovers")
        with (
            shelf(checkpoint, ["model"]) as cache_dir,
            daemon(cache_dir, settings, ("benchmarks.handover", str(notes))) as noted,
            daemon(cache_dir, settings) as plain,
        ):
            sides = [
                own_side(_NOTED, {"model": noted}, settings),
                own_side(_PLAIN, {"model": plain}, settings),
            ]
            prompts = Prompts(given.seed)
            for side in sides:
                asyncio.run(warm_up(side, prompts))
            rows = by_turns(
                sides, given.rounds, prompts.choose, lambda side: decode(side, prompts, given)
            )
        table = summary(rows, read(notes))
    save(
        __doc__,
        given,
        checkpoint,
        settings=settings,
        streams=given.streams,
        output_tokens=given.tokens,
        summary=table,
        rounds=rows,
    )
    show(table)
    slow = table["handover_p95_ms"] >= _ALLOWED_MS
    sys.exit(slow or table["api_cpu_share"]["median"] >= _ALLOWED_SHARE)


if __name__ == "__main__":
    main()
