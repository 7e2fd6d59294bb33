"""Requests in flight: always so many (a closed loop), or as they arrive (an open one)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from benchmarks.prompts import Prompt
from benchmarks.streams import Exchange, Server


class Target(NamedTuple):
    """A model of a server."""

    server: Server
    model: str


class Ask(NamedTuple):
    """One request, greedy, for so many tokens exactly."""

    target: Target
    prompt: Prompt
    tokens: int

    def body(self, **more: object) -> dict[str, object]:
        return {
            "model": self.target.model,
            "prompt": self.prompt,
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **more,
        }


def poisson(choose: random.Random, rate: float, count: int) -> list[float]:
    """When so many requests arrive, in seconds from the beginning, `rate` a second on average."""
    return list(accumulate(choose.expovariate(rate) for _ in range(count)))


async def closed(asks: Sequence[Ask], concurrency: int, patience_s: float) -> list[Exchange]:
    """`concurrency` are in flight until none is left to send; in the order of `asks`."""
    left = list(enumerate(asks))[::-1]
    done: dict[int, Exchange] = {}

    async def client() -> None:
        while left:
            number, ask = left.pop()
            done[number] = await send(ask)
            await done[number].over(patience_s)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return [done[number] for number in range(len(asks))]


async def arriving(
    asks: Sequence[Ask], arrivals: Sequence[float], patience_s: float
) -> list[Exchange]:
    """Each is sent when it arrives, however many are in flight. Its times count from its arrival:
    what a busy client was late is not hidden."""
    start = time.perf_counter()

    async def client(ask: Ask, arrival: float) -> Exchange:
        await asyncio.sleep(max(0.0, start + arrival - time.perf_counter()))
        exchange = await send(ask, due=start + arrival)
        await exchange.over(patience_s)
        return exchange

    return await asyncio.gather(*map(client, asks, arrivals))


async def send(ask: Ask, *, due: float | None = None, **more: object) -> Exchange:
    return await Exchange.begin(ask.target.server, ask.body(**more), due=due)
