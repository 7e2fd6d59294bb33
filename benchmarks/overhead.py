"""What HTTP, the frames and the worker process cost over a bare onnxruntime-genai loop.

    python -m benchmarks.overhead [--rounds 9] [--threads N] [--cache-dir DIR]

Three sides take turns with the same checkpoint, threads, prompts and greedy decoding: `raw`, the
loop of onnxruntime-genai's own examples; `worker`, a worker's loop alone; `http`, the daemon. Every
prompt is new, so that no prefix is reused. Writes benchmarks/results/overhead.json, prints a table.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.daemon import Client, daemon, new_prompt, shelf
from benchmarks.result import cores, find_checkpoint, parser, quartiles, save

_OUTPUT_TOKENS = 64
_PROMPT_WORDS = (32, 256)
_WARM_UP_ROUNDS = 4


class Loop:
    """A loop in a process of its own: one prompt in, the times of its tokens out."""

    def __init__(self, module: str, checkpoint: Path, threads: int) -> None:
        command = [sys.executable, "-m", module, str(checkpoint), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, prompt: str) -> dict[str, float]:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([prompt, _OUTPUT_TOKENS]), file=self._process.stdin, flush=True)
        return _figures(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Http:
    """The daemon, asked over TCP."""

    def __init__(self, port: int, model: str) -> None:
        self._client = Client(port)
        self._model = model

    def run(self, prompt: str) -> dict[str, float]:
        return _figures(*self._client.stream(self._model, prompt, _OUTPUT_TOKENS))


def _figures(began: float, times: list[float]) -> dict[str, float]:
    """In milliseconds. Text that was held back makes fewer events than tokens: count tokens."""
    per_token = (times[-1] - times[0]) / (_OUTPUT_TOKENS - 1)
    return {"ttft_ms": (times[0] - began) * 1e3, "per_token_ms": per_token * 1e3}


def measure(sides: dict[str, Loop | Http], rounds: int, seed: int) -> list[dict[str, Any]]:
    """One row a round: every side's figures for the same prompt, in an order drawn anew."""
    choose = random.Random(seed)  # noqa: S311
    rows = []
    for words in _PROMPT_WORDS:
        for number in range(-_WARM_UP_ROUNDS, rounds):
            prompt = new_prompt(choose, words)
            order = choose.sample(list(sides), len(sides))
            row: dict[str, Any] = {"prompt_words": words, "order": order}
            row |= {name: sides[name].run(prompt) for name in order}
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
            "raw": Loop("benchmarks.raw_genai", checkpoint.path, threads),
            "worker": Loop("benchmarks.worker_loop", checkpoint.path, threads),
        }
        sides: dict[str, Loop | Http] = {**loops, "http": Http(port, checkpoint.name)}
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
