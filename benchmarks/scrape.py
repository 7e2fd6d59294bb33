"""What a scrape of `/metrics` costs when ten models are known.

    python -m benchmarks.scrape [--rounds 50] [--models 10] [--cache-dir DIR]

All models are one checkpoint under several names, and each has answered a request before, so that
every series is there. Each round is a scrape in Prometheus' text format and one in OpenMetrics,
over a connection that is kept, 100 ms after the last ones: first with nothing else to do, then
while a client streams. `library` is prometheus_client alone, in this process, writing the very same
samples: what an exposition by it would cost at least. Writes benchmarks/results/scrape.json,
prints a table. Exits with 1 unless 95 % of the scrapes of an idle daemon took less than 10 ms.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from benchmarks.daemon import Client, daemon, new_prompt, repeating, shelf
from benchmarks.result import cores, find_checkpoint, parser, save, spread

_FORMATS = {"text": "text/plain", "openmetrics": "application/openmetrics-text"}
_PAUSE_S = 0.1
_ALLOWED_MS = 10.0


def measure(port: int, models: Sequence[str], rounds: int, seed: int) -> list[dict[str, Any]]:
    """One row a scrape."""
    choose = random.Random(seed)  # noqa: S311
    client, scraper = Client(port), Client(port)
    for model in models:
        client.stream(model, new_prompt(choose, 32), 16)

    def stream() -> None:
        client.stream(models[-1], new_prompt(choose, 32), 256)

    conditions: dict[str, AbstractContextManager[object]] = {
        "idle": nullcontext(),
        "streaming": repeating(stream),
    }
    rows = []
    for condition, lasting in conditions.items():
        with lasting:
            for _ in range(rounds):
                time.sleep(_PAUSE_S)
                rows += [{"condition": condition, **_scrape(scraper, name)} for name in _FORMATS]
    parsed = list(text_string_to_metric_families(client.ask("/metrics").decode()))
    return rows + [_written_by_the_library(parsed) for _ in range(rounds)]


class _Samples(Collector):
    """Samples that were there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _written_by_the_library(families: Sequence[Metric]) -> dict[str, Any]:
    registry = CollectorRegistry()
    registry.register(_Samples(families))
    began = time.perf_counter()
    content = generate_latest(registry)
    took = time.perf_counter() - began
    return {"condition": "library", "format": "text", "ms": took * 1e3, "bytes": len(content)}


def _scrape(client: Client, format: str) -> dict[str, Any]:
    began = time.perf_counter()
    content = client.ask("/metrics", accept=_FORMATS[format])
    took = time.perf_counter() - began
    return {"format": format, "ms": took * 1e3, "bytes": len(content)}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for condition, format in dict.fromkeys((row["condition"], row["format"]) for row in rows):
        here = [r for r in rows if (r["condition"], r["format"]) == (condition, format)]
        times = {f"{name}_ms": ms for name, ms in spread([row["ms"] for row in here]).items()}
        largest = max(row["bytes"] for row in here)
        entry = {"condition": condition, "format": format, "scrapes": len(here)}
        table.append({**entry, **times, "bytes": largest})
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    print("condition  format       p50 ms  p95 ms  max ms    bytes")
    for row in table:
        print(
            f"{row['condition']:9}  {row['format']:11} {row['p50_ms']:7.2f} {row['p95_ms']:7.2f} "
            f"{row['max_ms']:7.2f} {row['bytes']:8}"
        )


def main() -> None:
    arguments = parser(__doc__, "scrape", rounds=50)
    arguments.add_argument("--models", type=int, default=10, help="how many; default 10")
    arguments.add_argument("--threads", type=int, default=cores())
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    models = [f"model-{number}" for number in range(given.models)]
    settings = {"WORKER__THREADS": given.threads, "POOL__MIN_RESIDENCY_S": 0}
    with shelf(checkpoint, models) as cache_dir, daemon(cache_dir, settings) as port:
        rows = measure(port, models, given.rounds, given.seed)
    table = summary(rows)
    save(
        __doc__,
        given,
        checkpoint,
        models=given.models,
        threads=given.threads,
        summary=table,
        scrapes=rows,
    )
    show(table)
    idle = [row["p95_ms"] for row in table if row["condition"] == "idle"]
    sys.exit(max(idle) >= _ALLOWED_MS)


if __name__ == "__main__":
    main()
