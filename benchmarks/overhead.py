"""What HTTP, the frames and the worker process cost over a bare onnxruntime-genai loop.

    python -m benchmarks.overhead [--pairs 9] [--cache-dir DIR] [--model NAME]

Both sides have the same checkpoint, threads, prompts and greedy decoding, and take turns; every
prompt is new, so that no prefix is reused. The bare loop is the one of onnxruntime-genai's own
examples, in a process of its own. Writes benchmarks/results/overhead.json and prints a table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
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

_WORDS = "lemon lime orange river mountain quiet engine window paper silver garden winter".split()
_OUTPUT_TOKENS = 64
_PROMPT_WORDS = (32, 256)


class RawLoop:
    """The child process below: one prompt in, the times of its tokens out."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.raw_genai", str(checkpoint), str(threads)]
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
    """The daemon, asked over a socket by the plainest client there is."""

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
        content, times = json.dumps(body), []
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.connect()
        began = time.perf_counter()
        connection.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                at = time.perf_counter()
                if json.loads(line[6:])["choices"][0]["text"]:
                    times.append(at)
        connection.close()
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
                    http.client.HTTPConnection("127.0.0.1", port).request("GET", "/readyz")
                except OSError:
                    continue
                break
            yield
        finally:
            process.terminate()
            process.wait()


def measure(raw: RawLoop, served: Http, pairs: int, seed: int) -> list[dict[str, Any]]:
    choose = random.Random(seed)  # noqa: S311
    rows = []
    for words in _PROMPT_WORDS:
        for number in range(-1, pairs):
            prompt = " ".join(choose.choices(_WORDS, k=words))
            sides = [("raw", raw), ("http", served)]
            choose.shuffle(sides)
            row: dict[str, Any] = {"prompt_words": words, "first": sides[0][0]}
            row |= {name: side.run(prompt) for name, side in sides}  # type: ignore[attr-defined]
            if number >= 0:  # the first pair warms both
                rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for words in _PROMPT_WORDS:
        pairs = [row for row in rows if row["prompt_words"] == words]
        entry: dict[str, Any] = {"prompt_words": words, "pairs": len(pairs)}
        for figure in ("ttft_ms", "per_token_ms"):
            for side in ("raw", "http"):
                entry[f"{side}_{figure}"] = statistics.median(row[side][figure] for row in pairs)
            added = [row["http"][figure] - row["raw"][figure] for row in pairs]
            entry[f"added_{figure}"] = statistics.median(added)
            ratios = [row["http"][figure] / row["raw"][figure] for row in pairs]
            entry[f"ratio_{figure}"] = statistics.median(ratios)
            entry[f"ratio_{figure}_spread"] = [min(ratios), max(ratios)]
        table.append(entry)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=12345)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--cache-dir")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overhead.json"))
    given = parser.parse_args()
    settings = load_settings(flags={"cache_dir": given.cache_dir})
    checkpoint = create_catalog(settings).find(given.model, "auto")
    threads = len(os.sched_getaffinity(0))
    with daemon(settings.cache_path, given.port, threads):
        raw = RawLoop(checkpoint.path, threads)
        rows = measure(raw, Http(given.port, given.model), given.pairs, given.seed)
        raw.close()
    result = {
        "about": __doc__.splitlines()[0],
        "machine": provenance(),
        "seed": given.seed,
        "threads": threads,
        "checkpoint": {"name": checkpoint.name, "dtype": checkpoint.dtype},
        "output_tokens": _OUTPUT_TOKENS,
        "summary": summary(rows),
        "pairs": rows,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    for entry in result["summary"]:
        print(json.dumps(entry))


if __name__ == "__main__":
    main()
