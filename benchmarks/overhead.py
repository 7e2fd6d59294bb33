"""What HTTP, the frames and the worker process cost over a bare onnxruntime-genai loop.

    python -m benchmarks.overhead [--rounds 9] [--threads N] [--cache-dir DIR]

Three sides take turns with the same checkpoint, threads, prompts and greedy decoding: `raw`, the
loop of onnxruntime-genai's own examples; `worker`, a worker's loop alone; `http`, the daemon. Every
prompt is new, so that no prefix is reused. Writes benchmarks/results/overhead.json, prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import provenance
from lemonade_serve.app import create_catalog
from lemonade_serve.settings import load_settings

_WORDS = ("lemon", "lime", "orange", "river", "mountain", "quiet", "engine", "window", "paper")
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
    """The daemon, asked by a client that only notes when which bytes came: it shares the cores."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model

    def run(self, prompt: str) -> dict[str, float]:
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": _OUTPUT_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        content = json.dumps(body).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        chunks = []
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            began = time.perf_counter()
            connection.sendall(head.encode() + content)
            while chunk := connection.recv(65536):
                chunks.append((time.perf_counter(), chunk))
        times = [at for at, chunk in chunks if re.search(rb'"text":"[^"]', chunk)]
        assert b"[DONE]" in chunks[-1][1] or b"[DONE]" in chunks[-2][1], chunks[-1]
        return _figures(began, times)


def _figures(began: float, times: list[float]) -> dict[str, float]:
    """In milliseconds. Text that was held back makes fewer events than tokens: count tokens."""
    per_token = (times[-1] - times[0]) / (_OUTPUT_TOKENS - 1)
    return {"ttft_ms": (times[0] - began) * 1e3, "per_token_ms": per_token * 1e3}


@contextmanager
def daemon(cache_dir: Path, port: int, threads: int) -> Iterator[None]:
    environment = {"LEMONADE_WORKER__THREADS": str(threads), "LEMONADE_CACHE_DIR": str(cache_dir)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lemonade_serve", "serve", "--port", str(port)],
            env={**os.environ, **environment},
            stderr=log,
        )
        try:
            for _ in range(300):
                time.sleep(0.1)
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except OSError:
                    continue
                break
            yield
        finally:
            process.terminate()
            process.wait()


def measure(sides: dict[str, Loop | Http], rounds: int, seed: int) -> list[dict[str, Any]]:
    """One row a round: every side's figures for the same prompt, in an order drawn anew."""
    choose = random.Random(seed)  # noqa: S311
    rows = []
    for words in _PROMPT_WORDS:
        for number in range(-_WARM_UP_ROUNDS, rounds):
            prompt = " ".join(choose.choices(_WORDS, k=words))
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
                ratios = sorted(row[side][figure] / row["raw"][figure] for row in rounds)
                added = [row[side][figure] - row["raw"][figure] for row in rounds]
                entry[figure] = statistics.median(row[side][figure] for row in rounds)
                entry[f"{figure}_added"] = statistics.median(added)
                entry[f"{figure}_ratio"] = statistics.median(ratios)
                entry[f"{figure}_ratio_quartiles"] = [
                    ratios[len(ratios) // 4],
                    ratios[-1 - len(ratios) // 4],
                ]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=12345)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache-dir")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overhead.json"))
    given = parser.parse_args()
    settings = load_settings(flags={"cache_dir": given.cache_dir})
    checkpoint = create_catalog(settings).find(given.model, "auto")
    threads = given.threads
    with daemon(settings.cache_path, given.port, threads):
        loops = {
            "raw": Loop("benchmarks.raw_genai", checkpoint.path, threads),
            "worker": Loop("benchmarks.worker_loop", checkpoint.path, threads),
        }
        sides: dict[str, Loop | Http] = {**loops, "http": Http(given.port, given.model)}
        rows = measure(sides, given.rounds, given.seed)
        for loop in loops.values():
            loop.close()
    result = {
        "about": __doc__.splitlines()[0],
        "machine": provenance(),
        "seed": given.seed,
        "threads": threads,
        "checkpoint": {"name": checkpoint.name, "dtype": checkpoint.dtype},
        "output_tokens": _OUTPUT_TOKENS,
        "summary": summary(rows),
        "rounds": rows,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    show(result["summary"])


if __name__ == "__main__":
    main()
