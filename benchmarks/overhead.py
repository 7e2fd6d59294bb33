"""What HTTP, the frames and the worker process cost over a bare onnxruntime-genai loop.

    python -m benchmarks.overhead [--rounds 9] [--threads N] [--cache-dir DIR]

Three sides take turns with the same checkpoint, threads, prompts and greedy decoding: `raw`, the
loop of onnxruntime-genai's own examples; `worker`, a worker's loop alone; `http`, the daemon. Every
prompt is new, so that no prefix is reused. Writes benchmarks/results/overhead.json, prints a table.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.daemon import Client, daemon, new_prompt, shelf
from benchmarks.loops import RAW, Loop
from benchmarks.result import cores, find_checkpoint, parser, quartiles, save

_OUTPUT_TOKENS = 64
_PROMPT_WORDS = (32, 256)
_WARM_UP_ROUNDS = 4


Side = Callable[[str], tuple[float, list[float]]]
"""Takes a prompt; answers when it began, and when its tokens came."""


def _figures(began: float, times: list[float]) -> dict[str, float]:
    """In milliseconds. Text that was held back makes fewer events than tokens: count tokens."""
    per_token = (times[-1] - times[0]) / (_OUTPUT_TOKENS - 1)
    return {"ttft_ms": (times[0] - began) * 1e3, "per_token_ms": per_token * 1e3}


def measure(sides: Mapping[str, Side], rounds: int, seed: int) -> list[dict[str, Any]]:
    """One row a round: every side's figures for the same prompt, in an order drawn anew."""
    choose = random.Random(seed)  # noqa: S311
    rows = []
    for words in _PROMPT_WORDS:
        for number in range(-_WARM_UP_ROUNDS, rounds):
            prompt = new_prompt(choose, words)
            order = choose.sample(list(sides), len(sides))
            row: dict[str, Any] = {"prompt_words": words, "order": order}
            row |= {name: _figures(*sides[name](prompt)) for name in order}
            if number >= 0:
                rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the rounds; what is added to `raw` and the ratio to it are taken by round."""
    table = []
    for words in _PROMPT_WORDS:
        rounds = [row for row in rows if row["prompt_words"] == words]
        for side in ("raw", "worker", "http"):
            entry: dict[str, Any] = {"prompt_words": words, "rounds": len(rounds), "side": side}
            for figure in ("ttft_ms", "per_token_ms"):
                ratios = [row[side][figure] / row["raw"][figure] for row in rounds]
                added = [row[side][figure] - row["raw"][figure] for row in rounds]
                entry[figure] = statistics.median(row[side][figure] for row in rounds)
                entry[f"{figure}_added"] = statistics.median(added)
                entry[f"{figure}_ratio"] = statistics.median(ratios)
                entry[f"{figure}_ratio_quartiles"] = quartiles(ratios)
            table.append(entry)
    return table


def show(table: list[dict[str, Any]]) -> None:
    print("words  side    TTFT ms  added  ratio   token ms  added  ratio (quartiles)")
    for row in table:
        low, high = row["per_token_ms_ratio_quartiles"]
        print(
            f"{row['prompt_words']:5}  {row['side']:6} {row['ttft_ms']:8.1f} "
            f"{row['ttft_ms_added']:6.1f}  {row['ttft_ms_ratio']:.3f} {row['per_token_ms']:9.2f} "
            f"{row['per_token_ms_added']:6.2f}  {row['per_token_ms_ratio']:.3f} "
            f"({low:.3f} to {high:.3f})"
        )


def main() -> None:
    arguments = parser(__doc__, "overhead", rounds=9)
    arguments.add_argument("--threads", type=int, default=cores())
    given = arguments.parse_args()
    checkpoint, threads = find_checkpoint(given), given.threads
    with (
        shelf(checkpoint, [checkpoint.name]) as cache_dir,
        daemon(cache_dir, {"WORKER__THREADS": threads}) as port,
    ):
        loops = {
            "raw": Loop(RAW, checkpoint.path, threads),
            "worker": Loop("benchmarks.worker_loop", checkpoint.path, threads),
        }
        client = Client(port)
        sides: dict[str, Side] = {
            name: partial(loop.run, tokens=_OUTPUT_TOKENS) for name, loop in loops.items()
        }
        sides["http"] = lambda prompt: client.stream(checkpoint.name, prompt, _OUTPUT_TOKENS)
        rows = measure(sides, given.rounds, given.seed)
        for loop in loops.values():
            loop.close()
    table = summary(rows)
    save(
        __doc__,
        given,
        checkpoint,
        threads=threads,
        output_tokens=_OUTPUT_TOKENS,
        summary=table,
        rounds=rows,
    )
    show(table)


if __name__ == "__main__":
    main()
