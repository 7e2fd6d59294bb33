"""How true `time_to_first_token` of `/stats` is: against a client's own clock.

    python -m benchmarks.clocks [--rounds 50] [--cache-dir DIR]

Each round is one streamed request with a prompt of 8 to 256 words, and then `/stats?model=`. The
client counts from before it sends the request to when it has the bytes of the first text: what it
sees more than the server are both their sockets, and Python's turn to read. Writes
benchmarks/results/clocks.json, prints the figures. Exits with 1 unless 95 % of the differences are
below 5 ms and 5 % of the client's time.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Sequence

from benchmarks.daemon import Client, daemon, new_prompt, shelf
from benchmarks.result import cores, find_checkpoint, parser, quantile, save

_PROMPT_WORDS = (8, 32, 128, 256)
_OUTPUT_TOKENS = 16
_ALLOWED_MS, _ALLOWED_SHARE = 5.0, 0.05


def measure(port: int, model: str, rounds: int, seed: int) -> list[dict[str, float]]:
    """In milliseconds, one row a request."""
    choose = random.Random(seed)  # noqa: S311
    client = Client(port)
    client.stream(model, new_prompt(choose, 8), _OUTPUT_TOKENS)
    rows = []
    for _ in range(rounds):
        words = choose.choice(_PROMPT_WORDS)
        stream = client.stream(model, new_prompt(choose, words), _OUTPUT_TOKENS)
        stats = json.loads(client.ask(f"/api/v0/stats?model={model}"))
        own, told = stream.time_to_first_token * 1e3, stats["time_to_first_token"] * 1e3
        rows.append({"prompt_words": words, "client_ms": own, "stats_ms": told})
    return rows


def summary(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    differences = [abs(row["client_ms"] - row["stats_ms"]) for row in rows]
    allowed = [_ALLOWED_MS + _ALLOWED_SHARE * row["client_ms"] for row in rows]
    used = [d / a for d, a in zip(differences, allowed, strict=True)]
    return {
        "requests": len(rows),
        "client_p50_ms": statistics.median(row["client_ms"] for row in rows),
        "stats_p50_ms": statistics.median(row["stats_ms"] for row in rows),
        "difference_p50_ms": statistics.median(differences),
        "difference_p95_ms": quantile(differences, 0.95),
        "difference_max_ms": max(differences),
        "of_what_is_allowed_p95": quantile(used, 0.95),
    }


def show(table: dict[str, float]) -> None:
    for name, value in table.items():
        print(f"{name:24} {value:8.3f}")


def main() -> None:
    arguments = parser(__doc__, "clocks", rounds=50)
    arguments.add_argument("--threads", type=int, default=cores())
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    with (
        shelf(checkpoint, [checkpoint.name]) as cache_dir,
        daemon(cache_dir, {"WORKER__THREADS": given.threads}) as port,
    ):
        rows = measure(port, checkpoint.name, given.rounds, given.seed)
    table = summary(rows)
    save(__doc__, given, checkpoint, threads=given.threads, summary=table, requests=rows)
    show(table)
    sys.exit(table["of_what_is_allowed_p95"] >= 1)


if __name__ == "__main__":
    main()
