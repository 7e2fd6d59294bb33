"""What is said of many answers: percentiles, throughput, goodput."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.result import quantile, quartiles
from benchmarks.streams import Answer

_SHOWN_PROBLEMS = 5
FIGURES = {
    "ttft_ms": (0.5, 0.95, 0.99),
    "per_token_ms": (0.5, 0.95, 0.99),
    "gap_ms": (0.5, 0.95, 0.99),
}
"""Each is given at these quantiles, as `ttft_ms_p50`."""


class Objective(NamedTuple):
    """What a request has to meet to be good, in milliseconds."""

    ttft_ms: float
    per_token_ms: float

    def met(self, answer: Answer) -> bool:
        per_token = answer.time_per_output_token or 0.0
        return (
            answer.time_to_first_token * 1e3 <= self.ttft_ms
            and per_token * 1e3 <= self.per_token_ms
        )


def of_answers(answers: Sequence[Answer], objective: Objective) -> dict[str, Any]:
    """Latencies are those of whole answers, in ms; rates are per second from the first request to
    the last end. What is not whole counts as failed."""
    whole = [answer for answer in answers if not answer.problem]
    problems = [answer.problem for answer in answers if answer.problem]
    figures: dict[str, Any] = {"requests": len(answers), "failed": len(problems)}
    if problems:
        figures["problems"] = list(dict.fromkeys(problems))[:_SHOWN_PROBLEMS]
    if not whole:
        return figures
    wall = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    tokens = sum(answer.completion_tokens for answer in whole)
    per_token = [answer.time_per_output_token for answer in whole]
    times = {
        "ttft_ms": [answer.time_to_first_token for answer in whole],
        "per_token_ms": [time for time in per_token if time is not None],
        "gap_ms": [gap for answer in whole for gap in answer.gaps],
    }
    figures |= percentiles(times)
    return figures | {
        "wall_s": wall,
        "tokens_per_s": tokens / wall,
        "goodput_per_s": sum(map(objective.met, whole)) / wall,
        "usage": {
            name: statistics.median(getattr(answer, name) for answer in whole)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        },
    }


def percentiles(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of times in seconds, in ms; a figure without any time is left out."""
    return {
        f"{name}_p{share * 100:.0f}": quantile(values, share) * 1e3
        for name, values in times.items()
        if values
        for share in FIGURES.get(name, (0.5, 0.95))
    }


def of_rounds(values: Iterable[float]) -> dict[str, Any]:
    """The median of the rounds, and the quartiles."""
    known = list(values)
    return {"median": statistics.median(known), "quartiles": quartiles(known)}


def ratios(rows: Sequence[Mapping[str, Any]], side: str, base: str, figure: str) -> dict[str, Any]:
    """Of a side to another one, taken round by round; empty where a round lacks the figure."""
    both = [(row[side].get(figure), row[base].get(figure)) for row in rows]
    known = [mine / other for mine, other in both if mine is not None and other]
    return of_rounds(known) if len(known) == len(rows) else {}
