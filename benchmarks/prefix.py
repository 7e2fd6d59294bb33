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

from benchmarks import trial
from benchmarks.prompts import Prompts
from benchmarks.result import parser
from benchmarks.sides import Side, add_arguments
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
        answer = await trial.answered(send(ask), given)
        row[f"{client}_ttft_ms"] = answer.time_to_first_token * 1e3
        row[f"{client}_cached_tokens"] = answer.cached_tokens
    return row


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
    table = trial.run(
        __doc__,
        given,
        measure,
        {"ratio": ("second_ttft_ms", "first_ttft_ms")},
        shared_tokens=given.shared,
        own_tokens=given.own,
    )
    show(table)
    sys.exit(table[0]["ratio"]["median"] > _ALLOWED)


if __name__ == "__main__":
    main()
