"""What a client saves whose prompt begins as another client's did.

    python -m benchmarks.prefix [--rounds 5] [--shared 1000] [--own 20]
        [--settings KEY=VALUE] [--side NAME:KEY=VALUE,…] [--peer NAME=URL] [--url URL]

Each round, on each side, in an order drawn anew, there is a new system prompt, which two clients
have in common; each asks a question of its own after it, the second when the first has been
answered. Writes benchmarks/results/prefix.json, prints a table. Exits with 1 if, on the first side,
the second client waits for more than a tenth of what the first did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.figures import of_rounds
from benchmarks.prompts import Prompts
from benchmarks.result import parser, save
from benchmarks.sides import (
    Side,
    add_arguments,
    by_turns,
    described,
    open_sides,
    prompts_of,
    served,
)
from benchmarks.streams import Server
from benchmarks.traffic import Ask, Target, send

_OUTPUT_TOKENS = 16
_ALLOWED = 0.1


async def measure(side: Side, prompts: Prompts, given: argparse.Namespace) -> dict[str, float]:
    """One round of one side."""
    common, row = prompts.new(given.shared), {}
    for client in ("first", "second"):
        server, model = side.targets[0]
        named = Target(Server(server.url, {**server.headers, "X-Client-Id": client}), model)
        ask = Ask(named, prompts.after(common, given.own), _OUTPUT_TOKENS)
        exchange = await send(ask)
        await exchange.over(given.patience)
        answer = exchange.read()
        assert not answer.problem, answer.problem
        row[f"{client}_ttft_ms"] = answer.time_to_first_token * 1e3
        row[f"{client}_cached_tokens"] = answer.cached_tokens
    return row


def summary(rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> list[dict[str, Any]]:
    """Medians and quartiles; the ratio of the second client's to the first's is taken by round."""
    table = []
    for side in sides:
        own = [row[side] for row in rows]
        entry: dict[str, Any] = {"side": side, "rounds": len(own)}
        entry |= {name: of_rounds(row[name] for row in own) for name in own[0]}
        entry["ratio"] = of_rounds(row["second_ttft_ms"] / row["first_ttft_ms"] for row in own)
        table.append(entry)
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    print("side        TTFT first  second ms  ratio (quartiles)        cached tokens")
    for row in table:
        low, high = row["ratio"]["quartiles"]
        print(
            f"{row['side']:10} {row['first_ttft_ms']['median']:11.1f} "
            f"{row['second_ttft_ms']['median']:10.1f}  {row['ratio']['median']:.3f} "
            f"({low:.3f} to {high:.3f}) {row['second_cached_tokens']['median']:14.0f}"
        )


def main() -> None:
    arguments = parser(__doc__, "prefix", rounds=5)
    arguments.add_argument("--shared", type=int, default=1000, help="tokens of the system prompt")
    arguments.add_argument("--own", type=int, default=20, help="tokens of a question")
    add_arguments(arguments)
    given = arguments.parse_args()
    with open_sides(given, ["model"]) as sides:
        prompts = prompts_of(given, sides)
        rows = by_turns(
            sides, given.rounds, prompts.choose, lambda side: measure(side, prompts, given)
        )
    table = summary(rows, [side.name for side in sides])
    save(
        __doc__,
        given,
        served(given),
        sides={side.name: described(side) for side in sides},
        shared_tokens=given.shared,
        own_tokens=given.own,
        summary=table,
        rounds=rows,
    )
    show(table)
    sys.exit(table[0]["ratio"]["median"] > _ALLOWED)


if __name__ == "__main__":
    main()
