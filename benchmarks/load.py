"""How servers do under load: a matrix of concurrency, prompt length, shared prefixes and models.

    python -m benchmarks.load [--rounds 5] [--concurrency 1 2 4 8 16] [--rates 0.5 1]
        [--prompts 32 256 1024] [--shared no yes] [--models 1 2] [--waves 2]
        [--settings KEY=VALUE] [--side NAME:KEY=VALUE,…] [--peer NAME=URL] [--url URL]
        [--raw THREADS] [--base NAME]
    python -m benchmarks.load compare A.json B.json

Over real HTTP, against a daemon that is started here or any server that speaks OpenAI's
`/completions`. Each round has every cell, and each cell every side, in orders drawn anew, with the
same prompts: new ones each round, or three quarters of each the same in all rounds. In a closed
loop `--concurrency` requests are always in flight, `--waves` times so many in a round; in an open
one `--arrivals` requests arrive at random (Poisson), `--rates` a second. With two models requests
go to them in turns; a side that has one sits those cells out. `--raw THREADS` adds
onnxruntime-genai's own loop without a server, at concurrency 1.

Time to first token (TTFT), time per output token ((end-to-end - TTFT) / (tokens - 1)), gaps between
texts, tokens/s, and goodput: requests a second that meet `--objective`. Ratios to another side, the
first or `--base`, and of tokens/s to those at concurrency 1, are taken round by round.

Writes benchmarks/results/load.json after each round, and a plot beside it; prints a table. What a
cold load and a swap of models cost is `python -m benchmarks.swap`.

The load generator is our own. servebench 1.1 comes closest: it streams with a time for each chunk,
in a closed loop and by Poisson arrivals, and measures the same as this one against its own mock
server. But it measures one model of one server, then the next, so that neither two models nor two
servers by turns are to be had; its prompts are words, or cut to length by a tokenizer of
transformers; its shared prefix is the same in every run; and it parses each chunk when it comes, on
the cores that the server computes with.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import product
from typing import Any, NamedTuple

from benchmarks import chart, comparison
from benchmarks.figures import Objective, of_answers, of_rounds, ratios
from benchmarks.loops import RAW, Loop
from benchmarks.prompts import Prompt, Prompts
from benchmarks.result import find_checkpoint, parser, save
from benchmarks.sides import Side, add_arguments, described, open_sides, prompts_of, served
from benchmarks.streams import Answer
from benchmarks.traffic import Ask, arriving, closed, poisson

_SHARED = 0.75
_RAW = "raw"


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


def able(side: Side, cell: Cell) -> bool:
    """A bare loop has one sequence at a time."""
    return (not side.loop or cell.concurrency == 1) and len(side.targets) >= cell.models


class Load:
    """All cells, on all sides. A prefix that prompts of a cell share is the same in all rounds, and
    each side has just seen it."""

    def __init__(
        self,
        given: argparse.Namespace,
        sides: Sequence[Side],
        prompts: Prompts,
    ) -> None:
        self._given = given
        self._sides = sides
        self._prompts = prompts
        self._cells = list(cells(given))
        self._beginnings = {cell: prompts.new(_shared(cell)) for cell in self._cells if cell.shared}

    def round(self, number: int) -> list[dict[str, Any]]:
        """One row a cell, with the figures of each side that is able."""
        rows = []
        for cell in self._prompts.choose.sample(self._cells, len(self._cells)):
            sides = [side for side in self._sides if able(side, cell)]
            order = self._prompts.choose.sample(sides, len(sides))
            row: dict[str, Any] = {**cell._asdict(), "round": number}
            row["order"] = [side.name for side in order]
            count = (
                self._given.waves * cell.concurrency if cell.concurrency else self._given.arrivals
            )
            beginning, own = self._beginnings.get(cell), cell.prompt_tokens - _shared(cell)
            drawn = [self._prompts.after(beginning, own) for _ in range(count)]
            arrivals = poisson(self._prompts.choose, cell.rate, count) if cell.rate else []
            for side in order:
                row[side.name] = asyncio.run(self._measure(cell, side, drawn, arrivals))
            rows.append(row)
            print(f"round {number}: {cell}", file=sys.stderr)
        return rows

    async def _measure(
        self, cell: Cell, side: Side, drawn: Sequence[Prompt], arrivals: Sequence[float]
    ) -> dict[str, Any]:
        given, objective = self._given, Objective(*self._given.objective)
        if side.loop:
            answers = [_alone(side.loop, prompt, given.output_tokens) for prompt in drawn]
            return of_answers(answers, objective)
        targets = side.targets[: cell.models]
        if beginning := self._beginnings.get(cell):
            seen = [Ask(target, beginning, 1) for target in targets]
            await closed(seen, 1, given.patience)
        asks = [
            Ask(targets[number % cell.models], prompt, given.output_tokens)
            for number, prompt in enumerate(drawn)
        ]
        began, cpu = time.perf_counter(), time.process_time()
        if cell.concurrency:
            exchanges = await closed(asks, cell.concurrency, given.patience)
        else:
            exchanges = await arriving(asks, arrivals, given.patience)
        share = (time.process_time() - cpu) / (time.perf_counter() - began)
        figures = of_answers([exchange.read() for exchange in exchanges], objective)
        return {**figures, "client_cpu_share": share}


def _shared(cell: Cell) -> int:
    """So many of its prompts' tokens."""
    return int(cell.prompt_tokens * _SHARED) if cell.shared else 0


def _alone(loop: Loop, prompt: Prompt, tokens: int) -> Answer:
    began, times = loop.run(prompt, tokens)
    return Answer(began, times[-1], {0: times}, {}, {}, len(prompt), 0, len(times), "")


def summary(
    rows: Sequence[dict[str, Any]], sides: Sequence[str], base: str
) -> list[dict[str, Any]]:
    """Medians and quartiles over the rounds; ratios are to `base`, by round."""
    table = []
    for cell in sorted({Cell(*(row[field] for field in Cell._fields)) for row in rows}, key=_order):
        here = [row for row in rows if all(row[k] == v for k, v in cell._asdict().items())]
        measured = [side for side in sides if side in here[0]]
        for side in measured:
            entry: dict[str, Any] = {**cell._asdict(), "side": side, "rounds": len(here)}
            entry["failed"] = sum(row[side]["failed"] for row in here)
            for figure in here[0][side]:
                known = [row[side][figure] for row in here if figure in row[side]]
                if isinstance(known[0], float) and len(known) == len(here):
                    entry[figure] = of_rounds(known)
                    if base in measured and side != base:
                        entry[figure] |= {"ratio": ratios(here, side, base, figure)}
            if cell.concurrency and cell.concurrency > 1 and "tokens_per_s" in entry:
                entry["tokens_per_s"] |= {"of_one": _of_one(rows, here, cell, side)}
            table.append(entry)
    return table


def _order(cell: Cell) -> tuple[float, ...]:
    """Closed loops before open ones."""
    load = (cell.rate is not None, cell.concurrency or cell.rate or 0)
    return (cell.models, cell.shared, cell.prompt_tokens, *load)


def _of_one(
    rows: Sequence[dict[str, Any]], here: Sequence[dict[str, Any]], cell: Cell, side: str
) -> dict[str, Any]:
    """Tokens/s as a ratio to those of the same side at concurrency 1, by round."""
    one = cell._replace(concurrency=1)._asdict()
    alone = {row["round"]: row for row in rows if all(row[k] == v for k, v in one.items())}
    pairs = [{"many": row[side], "one": alone.get(row["round"], {}).get(side, {})} for row in here]
    return ratios(pairs, "many", "one", "tokens_per_s")


def show(table: Sequence[dict[str, Any]]) -> None:
    print(
        "models shared prompt   load  side         tok/s  of one  ratio (quartiles)       goodput"
        "  TTFT p50    p95  token p50  gap p50    p95    p99 ms  failed"
    )
    for row in table:
        load = f"{row['concurrency']:4} x" if row["concurrency"] else f"{row['rate']:4g}/s"
        line = f"{row['models']:6} {'yes' if row['shared'] else 'no':6} {row['prompt_tokens']:6} "
        line += f"{load}  {row['side']:10} "
        if "tokens_per_s" not in row:
            print(f"{line} no whole answer in some round; failed: {row['failed']}")
            continue
        rate, ratio, of_one = row["tokens_per_s"], "", ""
        if to_one := rate.get("of_one"):
            of_one = f"{to_one['median']:.2f}"
        if to_base := rate.get("ratio"):
            low, high = to_base["quartiles"]
            ratio = f"{to_base['median']:.3f} ({low:.3f} to {high:.3f})"
        line += f"{rate['median']:7.1f}  {of_one:>6}  {ratio:22} "
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
        "--raw",
        type=int,
        metavar="THREADS",
        help="one more side, at concurrency 1: onnxruntime-genai's own loop, without a server",
    )
    arguments.add_argument("--base", help="the side to compare with; default the first")
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
    with ExitStack() as opened:
        sides = opened.enter_context(open_sides(given, names))
        if given.raw:
            loop = opened.enter_context(closing(Loop(RAW, find_checkpoint(given).path, given.raw)))
            sides.append(Side(_RAW, sides[0].targets[:1], None, loop))
        load, rows = Load(given, sides, prompts_of(given, sides)), []
        for number in range(-given.warm_up, given.rounds):
            measured = load.round(number)
            if number < 0:
                continue
            rows += measured
            table = summary(rows, [side.name for side in sides], given.base or sides[0].name)
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
    show(table)


if __name__ == "__main__":
    main()
