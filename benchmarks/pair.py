"""What two models cost each other that decode at the same time.

    python -m benchmarks.pair [--rounds 5] [--streams 4] [--tokens 128] [--settings KEY=VALUE]

Conditions take turns, in an order drawn anew each round: `alone`, one model, in a daemon that
divides the cores as it does by default; `together`, two models in it; `one thread`, two models in a
daemon whose workers have one thread each; `apart`, two models in two daemons that know nothing of
each other, each with a thread for every core: more threads than cores. Each model has so many
streams. Tokens/s are those between that all streams have had text and that the first one ends.
Writes benchmarks/results/pair.json, prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.daemon import daemon, shelf
from benchmarks.figures import of_rounds, ratios
from benchmarks.prompts import Prompts
from benchmarks.result import cores, find_checkpoint, parser, quantile, save
from benchmarks.sides import Side, by_turns, described, own_side, parse_settings, warm_up
from benchmarks.traffic import Ask, send

_MODELS = ("one", "other")
_ALONE, _TOGETHER, _ONE_THREAD, _APART = "alone", "together", "one thread", "apart"
_PROMPT_TOKENS = 32
_FIRST_PIECES = 4
"""A stream decodes when bytes came so many times."""


@contextmanager
def open_sides(cache_dir: Path, settings: Mapping[str, str]) -> Iterator[list[Side]]:
    """The conditions; `alone` and `together` are the same daemon."""
    with ExitStack() as opened:

        def start(**more: object) -> tuple[int, dict[str, str]]:
            own = {**settings, **{name: str(value) for name, value in more.items()}}
            return opened.enter_context(daemon(cache_dir, own)), own

        port, own = start()
        narrow, one_thread = start(WORKER__THREADS=1)
        (first, all_threads), (second, _) = (start(WORKER__THREADS=cores()) for _ in _MODELS)
        yield [
            own_side(_ALONE, {_MODELS[0]: port}, own),
            own_side(_TOGETHER, dict.fromkeys(_MODELS, port), own),
            own_side(_ONE_THREAD, dict.fromkeys(_MODELS, narrow), one_thread),
            own_side(_APART, dict(zip(_MODELS, (first, second), strict=True)), all_threads),
        ]


async def measure(side: Side, prompts: Prompts, given: argparse.Namespace) -> dict[str, float]:
    """One round of one condition."""
    streams = []
    for _ in range(given.streams):
        for target in side.targets:
            ask = Ask(target, prompts.new(_PROMPT_TOKENS), given.tokens)
            streams.append((target.model, await send(ask)))
    await asyncio.gather(*(stream.heard(_FIRST_PIECES) for _, stream in streams))
    await asyncio.gather(*(stream.over(given.patience) for _, stream in streams))
    answers = [(model, stream.read()) for model, stream in streams]
    problems = [answer.problem for _, answer in answers if answer.problem]
    assert not problems, problems[0]
    began = max(answer.times[0] for _, answer in answers)
    ended = min(answer.ended for _, answer in answers)
    gaps, rates = [], dict.fromkeys((target.model for target in side.targets), 0.0)
    for model, answer in answers:
        inside = [at for at in answer.times if began <= at <= ended]
        gaps += [later - earlier for earlier, later in pairwise(inside)]
        per_text = answer.completion_tokens / len(answer.times)
        rates[model] += len(inside) * per_text / (ended - began)
    assert gaps, "the streams were not all under way at the same time"
    return {
        "tokens_per_s": sum(rates.values()),
        "model_tokens_per_s": statistics.mean(rates.values()),
        "gap_p50_ms": quantile(gaps, 0.5) * 1e3,
        "gap_p95_ms": quantile(gaps, 0.95) * 1e3,
        "gap_p99_ms": quantile(gaps, 0.99) * 1e3,
    }


def summary(rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> list[dict[str, Any]]:
    """Medians and quartiles; ratios to `alone` are taken by round."""
    table = []
    for side in sides:
        entry: dict[str, Any] = {"side": side, "rounds": len(rows)}
        for figure in rows[0][side]:
            entry[figure] = of_rounds(row[side][figure] for row in rows)
            entry[figure] |= {"ratio": ratios(rows, side, _ALONE, figure)}
        table.append(entry)
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    print("            tokens/s  ratio (quartiles)        each model's  gap p50 ms     p95  ratio")
    for row in table:
        ratio = row["tokens_per_s"]["ratio"]
        low, high = ratio["quartiles"]
        print(
            f"{row['side']:10} {row['tokens_per_s']['median']:9.1f}  {ratio['median']:.3f} "
            f"({low:.3f} to {high:.3f}) {row['model_tokens_per_s']['median']:13.1f} "
            f"{row['gap_p50_ms']['median']:11.1f} {row['gap_p95_ms']['median']:7.1f}  "
            f"{row['gap_p95_ms']['ratio']['median']:.3f}"
        )


def main() -> None:
    arguments = parser(__doc__, "pair", rounds=5)
    arguments.add_argument("--streams", type=int, default=4, help="of each model")
    arguments.add_argument("--tokens", type=int, default=128, help="of each stream")
    arguments.add_argument("--patience", type=float, default=600, help="s for a request")
    arguments.add_argument("--settings", action="append", default=[], metavar="KEY=VALUE")
    given = arguments.parse_args()
    checkpoint, prompts = find_checkpoint(given), Prompts(given.seed)
    with (
        shelf(checkpoint, _MODELS) as cache_dir,
        open_sides(cache_dir, parse_settings(given.settings)) as sides,
    ):
        for side in sides:
            asyncio.run(warm_up(side, prompts))
        rows = by_turns(
            sides, given.rounds, prompts.choose, lambda side: measure(side, prompts, given)
        )
    table = summary(rows, [side.name for side in sides])
    save(
        __doc__,
        given,
        checkpoint,
        sides={side.name: described(side) for side in sides},
        streams=given.streams,
        output_tokens=given.tokens,
        summary=table,
        rounds=rows,
    )
    show(table)


if __name__ == "__main__":
    main()
