"""How servers do under load: a matrix of concurrency, prompt length, shared prefixes and models.

    python -m benchmarks.load [--rounds 5] [--concurrency 1 2 4 8 16] [--rates 0.5 1]
        [--prompts 32 256 1024] [--shared no yes] [--models 1 2] [--waves 2]
        [--settings KEY=VALUE] [--side NAME:KEY=VALUE,…] [--peer NAME=URL] [--url URL]
    python -m benchmarks.load compare A.json B.json

Over real HTTP, against a daemon that is started here or any server that speaks OpenAI's
`/completions`. Each round of a cell has every side once, in an order drawn anew, with the same
prompts: new ones each round, or three quarters of each the same in all rounds. In a closed loop
`--concurrency` requests are always in flight, `--waves` times so many in a round; in an open one
`--arrivals` requests arrive at random (Poisson), `--rates` a second. With two models requests go to
them in turns; a side that has one sits those cells out. Time to first token (TTFT), time per output
token ((end-to-end - TTFT) / (tokens - 1)), gaps between texts, tokens/s, and goodput: requests a
second that meet `--objective`. Ratios to the first side are taken round by round.

Writes benchmarks/results/load.json after each cell, and a plot beside it; prints a table. What a
cold load and a swap of models cost is `python -m benchmarks.swap`.

The load generator is our own. servebench 1.1 was looked at (vLLM's and SGLang's need the engines;
guidellm and aiperf are larger still): it streams with a time for each chunk, in a closed loop and
by Poisson arrivals. But it measures one model of one server at a time, so that neither two models
nor two servers by turns are to be had; its prompts are words, or cut to length by a tokenizer of
transformers; its shared prefix is the same in every run; and it parses each chunk when it comes,
with the cores that the server computes on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from benchmarks import chart, comparison
from benchmarks.figures import Objective, of_answers, of_rounds, ratios
from benchmarks.prompts import Prompts
from benchmarks.result import parser, save
from benchmarks.sides import Side, add_arguments, described, open_sides, prompts_of, served
from benchmarks.traffic import Ask, arriving, closed, poisson

_SHARED = 0.75


class Cell(NamedTuple):
    """`concurrency` is None in an open loop, `rate` (requests a second) in a closed one."""

    models: int
    shared: bool
    prompt_tokens: int
    concurrency: int | None
    rate: float | None


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for models, shared, tokens in product(given.models, given.shared, given.prompts):
        for concurrency in given.concurrency:
            yield Cell(models, shared == "yes", tokens, concurrency, None)
        for rate in given.rates:
            yield Cell(models, shared == "yes", tokens, None, rate)


async def measure(
    cell: Cell, given: argparse.Namespace, sides: Sequence[Side], prompts: Prompts
) -> list[dict[str, Any]]:
    """One row a round, with the figures of each side that has enough models."""
    able = [side for side in sides if len(side.targets) >= cell.models]
    count = given.waves * cell.concurrency if cell.concurrency else given.arrivals
    common = int(cell.prompt_tokens * _SHARED) if cell.shared else 0
    beginning = prompts.new(common) if common else None
    rows = []
    for number in range(-given.warm_up, given.rounds):
        drawn = [prompts.after(beginning, cell.prompt_tokens - common) for _ in range(count)]
        arrivals = poisson(prompts.choose, cell.rate, count) if cell.rate else []
        order = prompts.choose.sample(able, len(able))
        row: dict[str, Any] = {**cell._asdict(), "round": number}
        row["order"] = [side.name for side in order]
        for side in order:
            asks = [
                Ask(side.targets[n % cell.models], prompt, given.output_tokens)
                for n, prompt in enumerate(drawn)
            ]
            row[side.name] = await _figures(cell, asks, arrivals, given)
        if number >= 0:
            rows.append(row)
    return rows


async def _figures(
    cell: Cell, asks: Sequence[Ask], arrivals: Sequence[float], given: argparse.Namespace
) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    if cell.concurrency:
        exchanges = await closed(asks, cell.concurrency, given.patience)
    else:
        exchanges = await arriving(asks, arrivals, given.patience)
    share = (time.process_time() - cpu) / (time.perf_counter() - began)
    figures = of_answers([exchange.read() for exchange in exchanges], Objective(*given.objective))
    return {**figures, "client_cpu_share": share}


def summary(rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> list[dict[str, Any]]:
    """Medians and quartiles over the rounds; ratios are to the first side, by round."""
    table = []
    for cell in dict.fromkeys(Cell(*(row[field] for field in Cell._fields)) for row in rows):
        here = [row for row in rows if all(row[k] == v for k, v in cell._asdict().items())]
        able = [side for side in sides if side in here[0]]
        for side in able:
            entry: dict[str, Any] = {**cell._asdict(), "side": side, "rounds": len(here)}
            entry["failed"] = sum(row[side]["failed"] for row in here)
            for figure in here[0][side]:
                known = [row[side][figure] for row in here if figure in row[side]]
                if isinstance(known[0], float) and len(known) == len(here):
                    entry[figure] = of_rounds(known)
                    if side != able[0]:
                        entry[figure] |= {"ratio": ratios(here, side, able[0], figure)}
            table.append(entry)
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    print(
        "models shared prompt   load  side         tok/s  ratio (quartiles)       goodput  "
        "TTFT p50    p95  token p50  gap p50    p95    p99 ms  failed"
    )
    for row in table:
        load = f"{row['concurrency']:4} x" if row["concurrency"] else f"{row['rate']:4g}/s"
        line = f"{row['models']:6} {'yes' if row['shared'] else 'no':6} {row['prompt_tokens']:6} "
        line += f"{load}  {row['side']:10} "
        if "tokens_per_s" not in row:
            print(f"{line} no whole answer in some round; failed: {row['failed']}")
            continue
        ratio = row["tokens_per_s"].get("ratio")
        shown = "1"
        if ratio:
            low, high = ratio["quartiles"]
            shown = f"{ratio['median']:.3f} ({low:.3f} to {high:.3f})"
        line += f"{row['tokens_per_s']['median']:7.1f}  {shown:22} "
        line += f"{row['goodput_per_s']['median']:8.2f} "
        for name, width in _SHOWN.items():
            line += f"{row[name]['median']:{width}.1f}" if name in row else " " * width
        print(f"{line} {row['failed']:7}")


_SHOWN = {
    "ttft_ms_p50": 9,
    "ttft_ms_p95": 8,
    "per_token_ms_p50": 11,
    "gap_ms_p50": 9,
    "gap_ms_p95": 7,
    "gap_ms_p99": 9,
}
"""Figures, and how wide their columns are."""


def main() -> None:
    if sys.argv[1:2] == ["compare"]:
        comparison.main(sys.argv[2:])
        return
    arguments = parser(__doc__, "load", rounds=5)
    matrix = arguments.add_argument_group("the matrix")
    matrix.add_argument("--concurrency", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    matrix.add_argument("--rates", type=float, nargs="*", default=[], help="requests a second")
    matrix.add_argument("--prompts", type=int, nargs="+", default=[32, 256, 1024], help="tokens")
    matrix.add_argument("--shared", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    matrix.add_argument("--models", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    arguments.add_argument("--output-tokens", type=int, default=64)
    arguments.add_argument("--waves", type=int, default=2, help="closed loop; default 2")
    arguments.add_argument("--arrivals", type=int, default=32, help="open loop; default 32")
    arguments.add_argument("--warm-up", type=int, default=1, help="rounds before; default 1")
    arguments.add_argument(
        "--objective",
        type=float,
        nargs=2,
        default=[1000, 100],
        metavar=("TTFT_MS", "PER_TOKEN_MS"),
        help="for goodput; default 1000 and 100",
    )
    add_arguments(arguments)
    given = arguments.parse_args()
    names = [f"model-{number + 1}" for number in range(max(given.models))]
    with open_sides(given, names) as sides:
        prompts, rows = prompts_of(given, sides), []
        for cell in cells(given):
            rows += asyncio.run(measure(cell, given, sides, prompts))
            table = summary(rows, [side.name for side in sides])
            save(
                __doc__,
                given,
                served(given),
                sides={side.name: described(side) for side in sides},
                objective=Objective(*given.objective)._asdict(),
                output_tokens=given.output_tokens,
                summary=table,
                memory={side.name: side.memory() for side in sides},
                rounds=rows,
            )
            given.output.with_suffix(".svg").write_text(chart.draw(table))
            print(f"{cell}", file=sys.stderr)
    show(table)


if __name__ == "__main__":
    main()
