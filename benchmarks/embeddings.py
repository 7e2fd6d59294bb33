"""What a batch of texts saves against a call for each of them.

    python -m benchmarks.embeddings [--rounds 7] [--texts 64] [--words 8,32,128] [--clients 8]
        [--model all-MiniLM-L6-v2] [--cache-dir DIR] [--batch-tokens N]

Each round, for each length, in an order drawn anew: new texts in one request; the same number in
a request each, one after the other over a connection that is kept; and so, by several clients at
the same time. Lengths are in words, of which a text has half to one and a half times as many.
Writes benchmarks/results/embeddings.json, prints a table. Exits with 1 unless, at the first length,
the batch took less time than the calls one after the other, by the median of the rounds.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.daemon import Client, daemon, new_prompt, shelf
from benchmarks.result import cores, find_checkpoint, parser, quartiles, save
from lemonade_serve.settings import Worker

_PATH = "/v1/embeddings"
_CALLS = ("calls", "concurrent")


class Asker:
    """Asks a daemon in each of the ways, with texts that nobody has seen."""

    def __init__(self, port: int, model: str, seed: int, *, texts: int, clients: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311
        self._model = model
        self._texts = texts
        self._clients = [Client(port) for _ in range(clients)]
        self._threads = ThreadPoolExecutor(clients)

    def batch(self, words: int) -> int:
        return self._ask(self._clients[0], self._new(words))

    def calls(self, words: int) -> int:
        return sum(self._ask(self._clients[0], text) for text in self._new(words))

    def concurrent(self, words: int) -> int:
        texts, count = self._new(words), len(self._clients)

        def share(at: int) -> int:
            return sum(self._ask(self._clients[at], text) for text in texts[at::count])

        return sum(self._threads.map(share, range(count)))

    def _ask(self, client: Client, given: str | list[str]) -> int:
        """Returns how many tokens were read."""
        body = {"model": self._model, "input": given, "encoding_format": "base64"}
        tokens: int = json.loads(client.ask(_PATH, body))["usage"]["prompt_tokens"]
        return tokens

    def _new(self, words: int) -> list[str]:
        lengths = (self.choose.randint(words // 2, words + words // 2) for _ in range(self._texts))
        return [new_prompt(self.choose, max(1, length)) for length in lengths]


def measure(asker: Asker, lengths: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """One row a round, a length and a way."""
    ways: dict[str, Callable[[int], int]] = {
        "batch": asker.batch,
        "calls": asker.calls,
        "concurrent": asker.concurrent,
    }
    rows: list[dict[str, Any]] = []
    for number in range(-1, rounds):
        for words in lengths:
            for way in asker.choose.sample(list(ways), len(ways)):
                began = time.perf_counter()
                tokens = ways[way](words)
                took = time.perf_counter() - began
                row = {"round": number, "words": words, "way": way, "ms": took * 1e3}
                if number >= 0:  # the first one warms up
                    rows.append({**row, "tokens": tokens})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a length: medians, and ratios of the calls of a round to its batch."""
    table = []
    for words in dict.fromkeys(row["words"] for row in rows):
        here = [row for row in rows if row["words"] == words]
        times = {(row["round"], row["way"]): row["ms"] for row in here}
        batches = [row for row in here if row["way"] == "batch"]
        entry: dict[str, Any] = {
            "words": words,
            "tokens": statistics.median(row["tokens"] for row in batches),
            "batch_ms": statistics.median(row["ms"] for row in batches),
            "batch_tokens_per_s": statistics.median(1e3 * r["tokens"] / r["ms"] for r in batches),
        }
        for way in _CALLS:
            ratios = [times[row["round"], way] / row["ms"] for row in batches]
            entry[f"{way}_ms"] = statistics.median(times[row["round"], way] for row in batches)
            entry[f"{way}_ratio"] = statistics.median(ratios)
            entry[f"{way}_ratio_quartiles"] = quartiles(ratios)
        table.append(entry)
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    print("words  tokens  batch ms  tokens/s  calls ms  ratio (quartiles)  concurrent ms  ratio")
    for row in table:
        low, high = row["calls_ratio_quartiles"]
        print(
            f"{row['words']:5}  {row['tokens']:6.0f}  {row['batch_ms']:8.1f}  "
            f"{row['batch_tokens_per_s']:8.0f}  {row['calls_ms']:8.1f}  "
            f"{row['calls_ratio']:5.2f} ({low:.2f}-{high:.2f})  {row['concurrent_ms']:13.1f}  "
            f"{row['concurrent_ratio']:5.2f}"
        )


def main() -> None:
    arguments = parser(__doc__, "embeddings", rounds=7)
    arguments.set_defaults(model="all-MiniLM-L6-v2")
    arguments.add_argument("--texts", type=int, default=64, help="of a batch; default 64")
    arguments.add_argument("--words", default="8,32,128", help="of a text; default 8,32,128")
    arguments.add_argument("--clients", type=int, default=8, help="at the same time; default 8")
    arguments.add_argument("--threads", type=int, default=cores())
    arguments.add_argument(
        "--batch-tokens", type=int, default=Worker().encode_batch_tokens, help="the setting"
    )
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    lengths = [int(words) for words in given.words.split(",")]
    settings = {
        "WORKER__THREADS": given.threads,
        "WORKER__ENCODE_BATCH_TOKENS": given.batch_tokens,
    }
    with shelf(checkpoint, [given.model]) as cache_dir, daemon(cache_dir, settings) as port:
        asker = Asker(port, given.model, given.seed, texts=given.texts, clients=given.clients)
        rows = measure(asker, lengths, given.rounds)
    table = summary(rows)
    save(
        __doc__,
        given,
        checkpoint,
        texts=given.texts,
        clients=given.clients,
        threads=given.threads,
        batch_tokens=given.batch_tokens,
        summary=table,
        rounds=rows,
    )
    show(table)
    sys.exit(table[0]["calls_ratio"] <= 1)


if __name__ == "__main__":
    main()
