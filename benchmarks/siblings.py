"""What it costs to begin several sequences of one prompt, over one.

    python -m benchmarks.siblings [--rounds 5] [--n 3] [--prompt 1000]
        [--settings KEY=VALUE] [--side NAME:KEY=VALUE,…] [--peer NAME=URL] [--url URL]

Each round, on each side: a request for one sequence and one for `n`, in an order drawn anew, both
with a new prompt. Time to first token is until the first text of any choice; `all` until each
choice has had text. Sampled at temperature 1, with a seed. Writes benchmarks/results/siblings.json,
prints a table. Exits with 1 if, on the first side, `n` take more than 1.3 times as long.
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
from benchmarks.traffic import Ask, send

_OUTPUT_TOKENS = 16
_ALLOWED = 1.3


async def measure(side: Side, prompts: Prompts, given: argparse.Namespace) -> dict[str, float]:
    """One pair, in ms."""
    row = {}
    for n in prompts.choose.sample([1, given.n], 2):
        ask = Ask(side.targets[0], prompts.new(given.prompt), _OUTPUT_TOKENS)
        exchange = send(ask, temperature=1, seed=prompts.choose.randrange(2**31), n=n)
        answer = await trial.answered(exchange, given)
        assert len(answer.choices) == n, f"{len(answer.choices)} choices instead of {n}"
        last = max(times[0] for times in answer.choices.values())
        name = "one" if n == 1 else "several"
        row[f"{name}_ttft_ms"] = answer.time_to_first_token * 1e3
        row[f"{name}_all_ms"] = (last - answer.began) * 1e3
    return row


def show(table: Sequence[dict[str, Any]]) -> None:
    print("side        TTFT one  several ms  ratio (quartiles)        all several ms  ratio")
    for row in table:
        low, high = row["ttft_ratio"]["quartiles"]
        print(
            f"{row['side']:10} {row['one_ttft_ms']['median']:9.1f} "
            f"{row['several_ttft_ms']['median']:11.1f}  {row['ttft_ratio']['median']:.3f} "
            f"({low:.3f} to {high:.3f}) {row['several_all_ms']['median']:15.1f}  "
            f"{row['all_ratio']['median']:.3f}"
        )


def main() -> None:
    arguments = parser(__doc__, "siblings", rounds=5)
    arguments.add_argument("--n", type=int, default=3)
    arguments.add_argument("--prompt", type=int, default=1000, help="tokens")
    add_arguments(arguments)
    given = arguments.parse_args()
    table = trial.run(
        __doc__,
        given,
        measure,
        {f"{name}_ratio": (f"several_{name}_ms", f"one_{name}_ms") for name in ("ttft", "all")},
        n=given.n,
        prompt_tokens=given.prompt,
    )
    show(table)
    sys.exit(table[0]["ttft_ratio"]["median"] > _ALLOWED)


if __name__ == "__main__":
    main()
