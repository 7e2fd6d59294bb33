"""What each query of the dashboard must say after a `Day`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.system.day import REJECTED, STORY_PROMPT, STORY_TOKENS, Day, Usage
from tests.system.prometheus import Sample

WINDOW_S = 3600
"""`$__rate_interval`: the whole day is in it, and before it everything was 0. At the moment of a
scrape nothing is extrapolated, so that `increase` is exact."""

Check = Callable[[list[Sample]], None]
Values = Mapping[tuple[str, ...], float]


def exactly(values: Values, *labels: str) -> Check:
    """These, by `labels`; all others are 0."""

    def check(samples: list[Sample]) -> None:
        found = {tuple(s.labels.get(label, "") for label in labels): s.value for s in samples}
        assert len(found) == len(samples), samples
        nonzero = {key: value for key, value in found.items() if value}
        assert nonzero == pytest.approx({key: v for key, v in values.items() if v}, rel=1e-6)

    return check


def between(low: float, high: float, *expected: str, by: str = "model") -> Check:
    """All are more than `low` and at most `high`; there is one of each of `expected`, or one."""

    def check(samples: list[Sample]) -> None:
        if expected:
            assert sorted(sample.labels[by] for sample in samples) == sorted(expected)
        else:
            assert len(samples) == 1, samples
        assert all(low < sample.value <= high for sample in samples), samples

    return check


def infinite_bucket(count: float) -> Check:
    """A heat map of so many observations in all."""

    def check(samples: list[Sample]) -> None:
        buckets = {float(sample.labels["le"]): sample.value for sample in samples}
        assert buckets[float("inf")] == pytest.approx(count)
        assert sorted(buckets.values()) == [buckets[le] for le in sorted(buckets)]

    return check


def expected(day: Day) -> dict[tuple[str, str], Check]:
    """By the title of a panel and the letter of its query. Rates are per second of the window."""
    good = [usage for usages in day.usage.values() for usage in usages]
    return {**_service_levels(day), **_load(day, good), **_pool(day, len(good)), **_process(day)}


def _service_levels(day: Day) -> dict[tuple[str, str], Check]:
    ended = Counter[str]()
    for (_, _, outcome), number in day.requests.items():
        ended[outcome] += number
    long = day.ended - day.begun
    seconds = between(0, max(long, 2.5) * 4)  # a quantile may lie anywhere in its bucket
    quantiles = (
        "Time to first token",
        "Inter-token latency",
        "Time per output token",
        "Request duration",
        "Where the time goes (p95)",
    )
    return {
        **{(title, ref): seconds for title in quantiles for ref in "ABC"},
        ("Error ratio", "A"): exactly({(): ended["error"] / (ended["error"] + ended["ok"])}),
    }


def _load(day: Day, good: Sequence[Usage]) -> dict[tuple[str, str], Check]:
    outcomes, endpoints = Counter[tuple[str]](), Counter[tuple[str]]()
    for (_, endpoint, outcome), number in day.requests.items():
        outcomes[(outcome,)] += number
        endpoints[(endpoint,)] += number
    prompt = sum(usage.prompt for usage in good) + day.cut * STORY_PROMPT
    cached = sum(usage.cached for usage in good)
    assert cached > 0
    generated = sum(usage.generated for usage in good)
    most = generated + day.cut * STORY_TOKENS
    last = {model: usages[-1] for model, usages in day.usage.items()}
    return {
        ("Running and waiting requests", "A"): exactly({}, "model"),
        ("Running and waiting requests", "B"): exactly({}, "model"),
        ("Requests by outcome", "A"): _per_second(outcomes, "outcome"),
        ("Requests by endpoint", "A"): _per_second(endpoints, "endpoint"),
        ("Rejected requests by reason", "A"): _per_second(
            {("rate_limit_error",): REJECTED}, "reason"
        ),
        ("Tokens per second", "A"): between((generated + day.cut) / WINDOW_S, most / WINDOW_S),
        ("Tokens per second", "B"): _per_second({(): prompt}),
        ("Tokens per second", "C"): _per_second({(): cached}),
        ("Tokens being decoded per second", "A"): _of(
            between(0, most / WINDOW_S, "a", "b"), "a", "b"
        ),
        ("Prompt lengths", "A"): infinite_bucket(len(good)),
        ("Output lengths", "A"): infinite_bucket(len(good)),
        ("Batch sizes", "A"): _last(between(generated / 2, most, "+Inf", by="le")),
        ("Cached part of prompts", "A"): exactly({(): cached / prompt}),
        ("KV cache in use", "A"): exactly({}, "model"),
        ("Last good request", "A"): _stats(day, "time_to_first_token"),
        ("Last good request", "B"): _stats(day, "tokens_per_second"),
        ("Last good request", "C"): exactly(
            {(model,): usage.prompt for model, usage in last.items()}, "model"
        ),
        ("Last good request", "D"): exactly(
            {(model,): usage.generated for model, usage in last.items()}, "model"
        ),
    }


def _pool(day: Day, good: int) -> dict[tuple[str, str], Check]:
    hits, misses = sum(day.hits.values()), sum(day.misses.values())
    loads, departures = Counter[tuple[str]](), Counter[tuple[str]]()
    for (_, outcome), number in day.loads.items():
        loads[(outcome,)] += number
    for (_, reason), number in day.departures.items():
        departures[(reason,)] += number
    size = {("a",): day.memory_bytes}
    return {
        ("State of each model", "A"): exactly({("a",): 3}, "model"),
        ("Memory against budget", "A"): exactly({("cpu",): size["a",]}, "device"),
        ("Memory against budget", "B"): exactly({("cpu",): day.budget_bytes}, "device"),
        ("Memory by model", "A"): exactly(size, "model"),
        ("Pool hit ratio", "A"): exactly({(): hits / (hits + misses)}),
        ("Loads", "A"): exactly(loads, "outcome"),
        ("Departures by reason", "A"): exactly(departures, "reason"),
        ("Load duration (p95)", "A"): between(0, 600, "a", "b"),
        ("Idle at eviction", "A"): infinite_bucket(departures[("lru",)]),
        ("Worker restarts", "A"): exactly({("cpu", "crash"): day.restarts}, "device", "reason"),
        ("Models now", "A"): between(0, day.ended - day.begun, "a"),
        ("Models now", "B"): exactly(size, "model"),
        ("Models now", "C"): exactly({("a",): 1}, "model"),
    }


def _process(day: Day) -> dict[tuple[str, str], Check]:
    return {
        ("Up", "A"): between(0, 1),
        ("Version", "A"): between(0, 1),
        ("Draining", "A"): between(-1, 0),
        ("Uptime", "A"): between(day.ended - day.begun, 1e5),
        ("Scrape duration", "A"): between(0, 1),
        ("CPU of the daemon", "A"): between(0, 1),
        ("Memory of the daemon", "A"): between(10e6, 1e9),
        ("Open files", "A"): between(0, 0.8),
    }


def annotations(day: Day) -> dict[str, tuple[Values, tuple[str, ...]]]:
    """By the name of an annotation: how often it is on the graph, and by which labels."""
    return {
        "Load": ({(m,): n for (m, how), n in day.loads.items() if how == "ok"}, ("model",)),
        "Evict": ({(m,): n for (m, why), n in day.departures.items() if why == "lru"}, ("model",)),
        "Restart": ({("crash",): day.restarts}, ("reason",)),
    }


def totals(day: Day) -> dict[str, tuple[Values, tuple[str, ...]]]:
    """What the daemon itself must have counted in the end, by family and label."""
    good = {
        (model, endpoint): sum(usage.endpoint == endpoint for usage in usages)
        for model, usages in day.usage.items()
        for endpoint in {usage.endpoint for usage in usages}
    }
    of_model = {(model,): len(usages) for model, usages in day.usage.items()}
    begun = {("a",): of_model["a",] + day.cut, ("b",): of_model["b",]}
    prompts = {(m,): sum(usage.prompt for usage in usages) for m, usages in day.usage.items()}
    generated = {(m,): sum(usage.generated for usage in usages) for m, usages in day.usage.items()}
    loaded = {(model,): n for (model, how), n in day.loads.items() if how == "ok"}
    return {
        "requests_total": (day.requests, ("model", "endpoint", "outcome")),
        "requests_rejected_total": ({("rate_limit_error",): REJECTED}, ("reason",)),
        "request_duration_seconds_count": (good, ("model", "endpoint")),
        "time_to_first_token_seconds_count": (begun, ("model",)),
        "request_queue_duration_seconds_count": (begun, ("model",)),
        "request_prefill_duration_seconds_count": (begun, ("model",)),
        "request_decode_duration_seconds_count": (of_model, ("model",)),
        "request_prompt_tokens_count": (of_model, ("model",)),
        "request_prompt_tokens_sum": (prompts, ("model",)),
        "request_generated_tokens_count": (of_model, ("model",)),
        "request_generated_tokens_sum": (generated, ("model",)),
        "model_loads_total": (day.loads, ("model", "outcome")),
        "model_load_duration_seconds_count": (loaded, ("model",)),
        "model_evictions_total": (day.departures, ("model", "reason")),
        "model_pool_hits_total": ({(m,): n for m, n in day.hits.items()}, ("model",)),
        "model_pool_misses_total": ({(m,): n for m, n in day.misses.items()}, ("model",)),
        "worker_restarts_total": ({("cpu", "crash"): day.restarts}, ("device", "reason")),
    }


def _stats(day: Day, name: str) -> Check:
    return exactly({(model,): stats[name] for model, stats in day.stats.items()}, "model")


def _per_second(counts: Mapping[Any, float], *labels: str) -> Check:
    return exactly({key: count / WINDOW_S for key, count in counts.items()}, *labels)


def _of(check: Check, *models: str) -> Check:
    """Of these models alone."""
    return lambda samples: check([s for s in samples if s.labels["model"] in models])


def _last(check: Check) -> Check:
    """Of the bucket that has all."""
    return lambda samples: check([s for s in samples if s.labels["le"] == "+Inf"])
