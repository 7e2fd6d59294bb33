"""A measurement in rounds: each has every side once, and a figure's ratios are taken by round."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from benchmarks.figures import of_rounds
from benchmarks.prompts import Prompts
from benchmarks.result import save
from benchmarks.sides import Side, by_turns, described, open_sides, prompts_of, served
from benchmarks.streams import Answer, Exchange

Measure = Callable[[Side, Prompts, argparse.Namespace], Coroutine[Any, Any, Mapping[str, float]]]


def run(
    about: str,
    given: argparse.Namespace,
    measure: Measure,
    ratios: Mapping[str, tuple[str, str]],
    **said: object,
) -> list[dict[str, Any]]:
    """Measures on the sides that were asked for, and saves it, with what is `said` besides; returns
    the table."""
    with open_sides(given, ["model"]) as sides:
        prompts = prompts_of(given, sides)
        rows = by_turns(
            sides, given.rounds, prompts.choose, lambda side: measure(side, prompts, given)
        )
    table = summary(rows, [side.name for side in sides], ratios)
    save(
        about,
        given,
        served(given),
        sides={side.name: described(side) for side in sides},
        **said,
        summary=table,
        rounds=rows,
    )
    return table


def summary(
    rows: Sequence[Mapping[str, Any]],
    sides: Sequence[str],
    ratios: Mapping[str, tuple[str, str]],
) -> list[dict[str, Any]]:
    """A row a side: medians and quartiles of its figures, and of the ratios, each of one figure to
    another one of the same round."""
    table = []
    for side in sides:
        own = [row[side] for row in rows]
        entry: dict[str, Any] = {"side": side, "rounds": len(own)}
        entry |= {name: of_rounds(row[name] for row in own) for name in own[0]}
        for name, (figure, base) in ratios.items():
            entry[name] = of_rounds(row[figure] / row[base] for row in own)
        table.append(entry)
    return table


async def answered(exchange: Awaitable[Exchange], given: argparse.Namespace) -> Answer:
    """The whole answer. Raises AssertionError with what is wrong with it."""
    begun = await exchange
    await begun.over(given.patience)
    answer = begun.read()
    assert not answer.problem, answer.problem
    return answer
