"""Whether the daemon holds for long: no error, no leak, whole answers, and the same count of tokens
on both sides of HTTP.

    python -m benchmarks.soak [--minutes 20] [--concurrency 16] [--settings KEY=VALUE]

Clients ask two models of one daemon, each for itself, with pauses in between, so that they join and
leave at any step: prompts that share beginnings from a pool, all lengths, stop strings, sampling,
some answers whole instead of streamed; some clients hang up, before the first token or later.
Memory of the daemon and its workers is sampled all the while (USS, PSS and resident size). After
all, `/metrics` is compared with what the clients were told (benchmarks/ledger.py). Writes
benchmarks/results/soak.json, prints a summary. Exits with 1 if anything is not as it should be, or
if, after the warm-up, the memory in use grew by more than 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from benchmarks.daemon import daemon, shelf
from benchmarks.ledger import Counted, Ledger, read_metrics
from benchmarks.prompts import Prompt, Prompts
from benchmarks.result import find_checkpoint, parser, save
from benchmarks.sides import Side, api_process, get, own_side, parse_settings, warm_up
from benchmarks.streams import Exchange
from benchmarks.traffic import Ask

_MODELS = ("one", "other")
_POOL, _POOL_TOKENS = 12, 300
_OWN_TOKENS, _OUTPUT_TOKENS = (1, 80), (1, 96)
_STOPS = (" the", ".", "\n\n", "and", " of a")
_PAUSE_S, _PATIENCE_S = 0.5, 3.0
"""Means of what clients wait: between requests, and before they hang up."""
_STOPPING, _SAMPLING, _WHOLE, _LEAVING = 0.3, 0.5, 0.2, 0.15
"""How many of the requests have stop strings, are sampled, are not streamed, are given up."""
_DEADLINE_S, _SAMPLE_S = 300.0, 2.0
_GROWTH, _ENDS = 0.02, 0.2
"""Allowed; and how much of the time, at either end, is compared."""


async def client(
    side: Side, ledgers: Mapping[str, Ledger], pool: Sequence[Prompt], seed: int, until: float
) -> None:
    """Asks until the time is over, and waits for what it asked last."""
    prompts = Prompts(seed)
    choose = prompts.choose
    while True:
        await asyncio.sleep(choose.expovariate(1 / _PAUSE_S))
        if time.monotonic() > until:
            return
        target = choose.choice(side.targets)
        beginning = choose.choice(pool)
        beginning = beginning[: choose.randint(1, len(beginning))]
        prompt = prompts.after(beginning, choose.randint(*_OWN_TOKENS))
        asked = Ask(target, prompt, choose.randint(*_OUTPUT_TOKENS))
        stops = choose.sample(_STOPS, 2) if choose.random() < _STOPPING else []
        leaving = choose.random() < _LEAVING
        exchange = await Exchange.begin(target.server, body(asked, stops, choose))
        await exchange.over(choose.expovariate(1 / _PATIENCE_S) if leaving else _DEADLINE_S)
        said: dict[str, int] = {"prompt_tokens": len(prompt), "max_tokens": asked.tokens}
        ledger, answer = ledgers[target.model], exchange.read()
        if leaving and exchange.hung_up:
            ledger.leave(answer, **said)
        else:
            ledger.finish(answer, **said, stops=stops)


def body(ask: Ask, stops: Sequence[str], choose: random.Random) -> dict[str, object]:
    """With all that a request may say besides."""
    more: dict[str, object] = {"ignore_eos": choose.random() < 0.5}
    if stops:
        more["stop"] = stops
    if choose.random() < _SAMPLING:
        more |= {"temperature": choose.uniform(0.2, 1.5), "top_p": choose.uniform(0.5, 1)}
        more |= {"seed": choose.randrange(2**31)}
    if choose.random() < _WHOLE:
        return {**ask.body(stream=False, **more), "stream_options": None}
    return ask.body(**more)


class Memory:
    """Of the daemon and its workers, over time, in bytes."""

    def __init__(self, daemon: psutil.Process) -> None:
        self._processes = [daemon, *daemon.children()]
        self._began = time.monotonic()
        self.samples: list[dict[str, Any]] = []

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            self.samples.append(await asyncio.to_thread(self._sample))
            await asyncio.sleep(_SAMPLE_S)

    def _sample(self) -> dict[str, Any]:
        """Raises psutil.NoSuchProcess when a worker is gone."""
        own = [process.memory_full_info() for process in self._processes]
        sums = {kind: sum(getattr(one, kind) for one in own) for kind in ("rss", "pss", "uss")}
        each = {
            str(process.pid): one.rss for process, one in zip(self._processes, own, strict=True)
        }
        return {"s": round(time.monotonic() - self._began, 1), **sums, "resident": each}

    def growth(self, warm_up_s: float) -> dict[str, float]:
        """After the warm-up: the last fifth of the samples to the first, by their medians."""
        samples = [sample for sample in self.samples if sample["s"] >= warm_up_s]
        fifth = max(1, round(len(samples) * _ENDS))
        return {
            kind: statistics.median(sample[kind] for sample in samples[-fifth:])
            / statistics.median(sample[kind] for sample in samples[:fifth])
            - 1
            for kind in ("rss", "pss", "uss")
        }


async def soak(
    side: Side, given: argparse.Namespace, ledgers: Mapping[str, Ledger], memory: Memory
) -> None:
    """All clients for all the time; then nothing runs any more."""
    pool = [Prompts(given.seed + n).new(_POOL_TOKENS) for n in range(_POOL)]
    until = time.monotonic() + given.minutes * 60
    watching = asyncio.create_task(memory.watch())
    seeds = range(given.seed * 1000, given.seed * 1000 + given.concurrency)
    await asyncio.gather(*(client(side, ledgers, pool, seed, until) for seed in seeds))
    watching.cancel()
    await asyncio.wait([watching])
    if not watching.cancelled() and (error := watching.exception()):
        raise error
    while any(model["requests_running"] or model["requests_waiting"] for model in busy(side)):
        assert time.monotonic() < until + _DEADLINE_S, "the daemon does not become idle"
        await asyncio.sleep(0.1)


def busy(side: Side) -> list[dict[str, Any]]:
    health = side.health()
    assert health is not None
    return health


def counted(side: Side) -> dict[str, Counted]:
    root = side.targets[0].server.url.removesuffix("/v1")
    exposition = get(f"{root}/metrics", {}).raise_for_status().text
    return {target.model: read_metrics(exposition, target.model) for target in side.targets}


def show(result: Mapping[str, Any], minutes: float) -> None:
    for model, told in result["told"].items():
        tokens = result["counted"][model]["generated_tokens"]
        print(
            f"{model}: {told['finished']} answers, {told['left']} clients left; told "
            f"{told['completion_tokens']} generated tokens, counted {tokens} "
            f"({tokens / minutes / 60:.1f} a second)"
        )
    grown = ", ".join(f"{kind} {share:+.2%}" for kind, share in result["growth"].items())
    print(f"memory in use, last to first fifth after the warm-up: {grown}")
    for fault in result["faults"]:
        print(f"FAULT: {fault}")


def main() -> None:
    arguments = parser(__doc__, "soak", rounds=1)
    arguments.add_argument("--minutes", type=float, default=20)
    arguments.add_argument("--warm-up", type=float, help="minutes; default a quarter, at most 5")
    arguments.add_argument("--concurrency", type=int, default=16, help="clients")
    arguments.add_argument("--settings", action="append", default=[], metavar="KEY=VALUE")
    given = arguments.parse_args()
    checkpoint, settings = find_checkpoint(given), parse_settings(given.settings)
    warm_up_s = 60 * (min(5, given.minutes / 4) if given.warm_up is None else given.warm_up)
    ledgers = {model: Ledger() for model in _MODELS}
    with shelf(checkpoint, _MODELS) as cache_dir, daemon(cache_dir, settings) as port:
        side = own_side("daemon", dict.fromkeys(_MODELS, port), settings)
        asyncio.run(warm_up(side, Prompts(given.seed)))
        before, memory = counted(side), Memory(api_process(side))
        asyncio.run(soak(side, given, ledgers, memory))
        after = {model: now.since(before[model]) for model, now in counted(side).items()}
    growth = memory.growth(warm_up_s)
    faults = [f"{model}: {fault}" for model, own in ledgers.items() for fault in own.faults]
    for model, own in ledgers.items():
        faults += [f"{model}: {difference}" for difference in own.differences(after[model])]
    faults += [f"{kind} grew by {by:.2%}" for kind, by in growth.items() if by > _GROWTH]
    result = {
        "told": {model: vars(own) for model, own in ledgers.items()},
        "counted": {model: own._asdict() for model, own in after.items()},
        "growth": growth,
        "faults": faults,
        "memory": memory.samples,
    }
    save(__doc__, given, checkpoint, settings=settings, minutes=given.minutes, **result)
    show(result, given.minutes)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
