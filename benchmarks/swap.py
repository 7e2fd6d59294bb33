"""What a load costs a request, and what its way through the pool costs when there is none.

    python -m benchmarks.swap [--rounds 9] [--cache-dir DIR]

Over HTTP, with room for one model, by turns: `cold`, nothing is resident; `resident`, the same
model again; `swap`, another model, for which the first has to leave. All files are in the page
cache: it is our time that is measured, not a disk's. Then without HTTP, in one process with a real
worker and a real database: what each request does before its worker is asked. Writes
benchmarks/results/swap.json, prints two tables.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.daemon import Client, daemon, new_prompt, shelf
from benchmarks.result import cores, find_checkpoint, parser, quartiles, save, spread
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.device import Device, DeviceBudget, ExecutionProvider
from lemonade_serve.domain.residency.policy import Bounds
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.runtime.lanes import Lanes
from lemonade_serve.runtime.launcher import ProcessLauncher
from lemonade_serve.settings import Log, Options, Worker
from lemonade_serve.store.cached import CachedParamsStore
from lemonade_serve.store.database import DatabaseParamsStore
from lemonade_serve.telemetry.logging import configure_logging
from lemonade_serve.telemetry.observers import Observers

_PROMPT_WORDS = 16
_OUTPUT_TOKENS = 8
_BUDGET = DeviceBudget(execution_provider="cpu", max_models=1, memory_bytes=1 << 40)


def measure(port: int, models: Sequence[str], rounds: int, seed: int) -> list[dict[str, Any]]:
    """One row a round, in milliseconds to the first token; `unload` until its worker is reaped."""
    choose = random.Random(seed)  # noqa: S311
    client = Client(port)

    def first_token(model: str) -> float:
        prompt = new_prompt(choose, _PROMPT_WORDS)
        return client.stream(model, prompt, _OUTPUT_TOKENS).time_to_first_token * 1e3

    rows = []
    for _ in range(rounds):
        one, other = choose.sample(models, 2)
        row = {"cold": first_token(one), "resident": first_token(one), "swap": first_token(other)}
        began = time.perf_counter()
        client.ask("/api/v0/unload", {})
        rows.append({**row, "unload": (time.perf_counter() - began) * 1e3})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians; what is added to `resident` is taken by round."""
    table = []
    for side in ("resident", "cold", "swap", "unload"):
        times = [row[side] for row in rows]
        entry = {"side": side, "rounds": len(rows), "ms": statistics.median(times)}
        entry["quartiles_ms"] = quartiles(times)
        if side in ("cold", "swap"):
            entry["added_ms"] = statistics.median(row[side] - row["resident"] for row in rows)
        table.append(entry)
    return table


async def pass_through(
    checkpoint: CheckpointInfo, threads: int, passes: int
) -> dict[str, dict[str, float]]:
    """What a request for a resident model costs before it is sent to the worker, in µs."""
    launcher = ProcessLauncher(
        Worker(),
        threads=threads,
        lanes=Lanes(cpus=threads, threads=threads),
        execution_providers={Device.CPU: ExecutionProvider(name="cpu", hardware="cpu")},
        observer=Observers(),
    )
    pool = Pool(
        launcher,
        Observers(),
        budgets={Device.CPU: _BUDGET},
        bounds=Bounds(
            sequence_slots=1,
            max_queue=0,
            max_client_queue=0,
            kv_cache_tokens=Worker().kv_cache_tokens,
        ),
        clock=time.monotonic,
    )

    async def lease() -> None:
        lease = pool.acquire(checkpoint, [Device.CPU])
        await lease.worker()
        lease.release()

    try:
        await lease()
        return {"acquire and release": await _timed(lease, passes), **await _reads(passes)}
    finally:
        await pool.close()
        launcher.close()


async def _reads(passes: int) -> dict[str, dict[str, float]]:
    """The parameters that a client keeps, for all models and for one."""
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory, "lemonade.db")
        async with DatabaseParamsStore.open(where, max_clients=10, timeout_s=5) as database:
            await database.edit("client", "model", lambda _: Options(temperature=0.2))
            kept = ClientParams(CachedParamsStore(database, max_entries=10), Options())
            read = ClientParams(database, Options())
            return {
                "parameters, cached": await _timed(lambda: kept.layers("client", "model"), passes),
                "parameters, read": await _timed(lambda: read.layers("client", "model"), passes),
            }


async def _timed(act: Callable[[], Awaitable[object]], times: int) -> dict[str, float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await act()
        took.append((time.perf_counter() - began) * 1e6)
    return {f"{name}_us": value for name, value in spread(took).items()}


def show(table: Sequence[dict[str, Any]], passed: dict[str, dict[str, float]]) -> None:
    print("first token   ms (quartiles)               added to resident")
    for row in table:
        low, high = row["quartiles_ms"]
        added = f"{row['added_ms']:+8.1f}" if "added_ms" in row else ""
        print(f"{row['side']:9} {row['ms']:9.1f} ({low:.1f} to {high:.1f})  {added}")
    print("\na request's            p50 µs   p95 µs   max µs")
    for name, took in passed.items():
        print(f"{name:20} {took['p50_us']:8.1f} {took['p95_us']:8.1f} {took['max_us']:8.1f}")


def main() -> None:
    arguments = parser(__doc__, "swap", rounds=9)
    arguments.add_argument("--threads", type=int, default=cores())
    arguments.add_argument("--passes", type=int, default=5000, help="without HTTP; default 5000")
    given = arguments.parse_args()
    configure_logging(Log(level="warning"))
    checkpoint = find_checkpoint(given)
    models = ["one", "other"]
    settings = {
        "WORKER__THREADS": given.threads,
        "DEVICES__CPU__MAX_MODELS": 1,
        "POOL__MIN_RESIDENCY_S": 0,
    }
    with shelf(checkpoint, models) as cache_dir, daemon(cache_dir, settings) as port:
        rows = measure(port, models, given.rounds, given.seed)
    table = summary(rows)
    passed = asyncio.run(pass_through(checkpoint, given.threads, given.passes))
    save(
        __doc__,
        given,
        checkpoint,
        threads=given.threads,
        summary=table,
        rounds=rows,
        passes=given.passes,
        pass_through=passed,
    )
    show(table, passed)


if __name__ == "__main__":
    main()
