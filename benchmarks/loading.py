"""What a stream of one model notices while another model loads, and how long the daemon stalls.

    python -m benchmarks.loading [--rounds 9] [--threads 2 1] [--cache-dir DIR]

Three conditions take turns, in an order drawn anew each round: `alone`; `loading`, while another
real checkpoint is loaded and unloaded over and over; `burning`, while a process that only spins
takes what it can get of one core, in the place of a load that takes long. A real client streams
over HTTP, by its own clock. The event loop of the daemon is watched from inside
(benchmarks/lag.py). Writes benchmarks/results/loading.json, prints two tables. Exits with 1 if the
daemon's own doing stalled it for 20 ms or more.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.daemon import Client, Stream, daemon, new_prompt, repeating, shelf
from benchmarks.lag import Tick, read
from benchmarks.result import (
    cores,
    find_checkpoint,
    parser,
    quantile,
    quartiles,
    save,
    spread,
)
from lemonade_serve.domain.checkpoint import CheckpointInfo

_STREAMED, _LOADED = "streamed", "loaded"
_PROMPT_WORDS = 32
_STALL_MS = 20.0

Condition = Callable[[], AbstractContextManager[object]]


class Loads:
    """Loads the other model and unloads it, in turns, and knows when it was loading."""

    def __init__(self, port: int) -> None:
        self._client = Client(port)
        self._spans: list[tuple[float, float]] = []

    def once(self) -> None:
        began = time.perf_counter()
        self._client.ask("/api/v0/load", {"model": _LOADED})
        self._spans.append((began, time.perf_counter()))
        self._client.ask("/api/v0/unload", {"model": _LOADED})

    def within(self, began: float, ended: float) -> dict[str, float]:
        """How many loads there were, at least in part, and which share of the time they took."""
        spans = [(max(b, began), min(e, ended)) for b, e in self._spans if b < ended and e > began]
        return {
            "loads": len(spans),
            "loading_share": sum(e - b for b, e in spans) / (ended - began),
        }


@contextmanager
def burning() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(
    checkpoint: CheckpointInfo, threads: int, *, rounds: int, tokens: int, seed: int
) -> list[dict[str, Any]]:
    """One row a stream."""
    choose = random.Random(seed)  # noqa: S311
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        ticks = Path(scratch, "ticks")
        with (
            shelf(checkpoint, [_STREAMED, _LOADED]) as cache_dir,
            daemon(cache_dir, {"WORKER__THREADS": threads}, ("benchmarks.lag", str(ticks))) as port,
        ):
            loads, client = Loads(port), Client(port)
            conditions: dict[str, Condition] = {
                "alone": nullcontext,
                "loading": lambda: repeating(loads.once),
                "burning": burning,
            }
            client.stream(_STREAMED, new_prompt(choose, _PROMPT_WORDS), tokens)
            for number in range(rounds):
                for condition in choose.sample(list(conditions), len(conditions)):
                    with conditions[condition]():
                        prompt = new_prompt(choose, _PROMPT_WORDS)
                        stream = client.stream(_STREAMED, prompt, tokens)
                    row = {"threads": threads, "round": number, "condition": condition}
                    window = (stream.began, stream.times[-1])
                    rows.append({**row, **_gaps(stream), **loads.within(*window), "at": window})
        watched = read(ticks)
    return [{**row, "event_loop": _stalls(watched, *row["at"])} for row in rows]


def _gaps(stream: Stream) -> dict[str, float]:
    return {f"gap_{name}_ms": value * 1e3 for name, value in spread(stream.gaps).items()}


def _stalls(ticks: Sequence[Tick], began: float, ended: float) -> dict[str, float]:
    """In ms: how late the event loop was, how much of that was the daemon's own doing, and for how
    much its code really ran."""
    seen = [tick for tick in ticks if began < tick.at <= ended]
    late = [tick.late for tick in seen]
    return {
        "ticks": len(seen),
        "late_p99_ms": quantile(late, 0.99) * 1e3,
        "late_max_ms": max(late) * 1e3,
        "ours_p99_ms": quantile([tick.ours for tick in seen], 0.99) * 1e3,
        "ours_max_ms": max(tick.ours for tick in seen) * 1e3,
        "ran_max_ms": max(min(tick.late, tick.cpu) for tick in seen) * 1e3,
        "cpu_share": sum(tick.cpu for tick in seen) / (ended - began),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the rounds, ratios to `alone` by round; the longest stalls of all rounds."""
    table = []
    for threads, condition in dict.fromkeys((row["threads"], row["condition"]) for row in rows):
        here = [r for r in rows if (r["threads"], r["condition"]) == (threads, condition)]
        alone = {
            r["round"]: r for r in rows if (r["threads"], r["condition"]) == (threads, "alone")
        }
        entry: dict[str, Any] = {"threads": threads, "condition": condition, "rounds": len(here)}
        for figure in ("gap_p50_ms", "gap_p95_ms"):
            ratios = [row[figure] / alone[row["round"]][figure] for row in here]
            entry[figure] = statistics.median(row[figure] for row in here)
            entry[f"{figure}_ratio"] = statistics.median(ratios)
            entry[f"{figure}_ratio_quartiles"] = quartiles(ratios)
        entry["gap_max_ms"] = max(row["gap_max_ms"] for row in here)
        entry["loads"] = sum(row["loads"] for row in here)
        entry["loading_share"] = statistics.median(row["loading_share"] for row in here)
        for figure in ("late_p99_ms", "ours_p99_ms", "cpu_share"):
            entry[figure] = statistics.median(row["event_loop"][figure] for row in here)
        for figure in ("late_max_ms", "ours_max_ms", "ran_max_ms"):
            entry[figure] = max(row["event_loop"][figure] for row in here)
        table.append(entry)
    return sorted(table, key=lambda entry: (-entry["threads"], entry["condition"]))


def show(table: Sequence[dict[str, Any]]) -> None:
    print(
        "threads  condition  p50 ms  ratio (quartiles)       p95 ms  ratio (quartiles)       max ms"
    )
    for row in table:
        line = f"{row['threads']:7}  {row['condition']:9}"
        for figure in ("gap_p50_ms", "gap_p95_ms"):
            low, high = row[f"{figure}_ratio_quartiles"]
            line += f" {row[figure]:7.2f}  {row[f'{figure}_ratio']:.3f} ({low:.3f} to {high:.3f})"
        print(f"{line} {row['gap_max_ms']:7.1f}")
    print("\nthreads  condition  late p99 ms   max  ours p99 ms   max  ran max ms  loads  loading")
    for row in table:
        print(
            f"{row['threads']:7}  {row['condition']:9} {row['late_p99_ms']:12.2f} "
            f"{row['late_max_ms']:5.1f} {row['ours_p99_ms']:12.2f} {row['ours_max_ms']:5.1f} "
            f"{row['ran_max_ms']:11.1f} {row['loads']:6} {row['loading_share']:8.0%}"
        )


def main() -> None:
    arguments = parser(__doc__, "loading", rounds=9)
    free = sorted({cores(), max(1, cores() - 1)}, reverse=True)
    arguments.add_argument("--threads", type=int, nargs="+", default=free)
    arguments.add_argument("--tokens", type=int, default=256)
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    rows = []
    for threads in given.threads:
        rows += measure(
            checkpoint, threads, rounds=given.rounds, tokens=given.tokens, seed=given.seed
        )
    table = summary(rows)
    save(__doc__, given, checkpoint, output_tokens=given.tokens, summary=table, rounds=rows)
    show(table)
    longest = max(row["ours_max_ms"] for row in table)
    print(f"\nlongest stall of the daemon's own doing: {longest:.1f} ms (below {_STALL_MS:.0f}?)")
    sys.exit(longest >= _STALL_MS)


if __name__ == "__main__":
    main()
