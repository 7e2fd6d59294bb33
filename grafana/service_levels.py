"""How well requests are served."""

from __future__ import annotations

from grafana.panels import (
    RED,
    Panel,
    Target,
)
from grafana.queries import (
    MODEL,
    quantile,
    quantiles,
    rate,
)


def service_levels() -> list[Panel]:
    errors = rate("requests_total", MODEL + ', outcome="error"')
    ended = rate("requests_total", MODEL + ', outcome=~"ok|error"')
    phases = [
        Target(quantile(95, f"request_{phase}_duration_seconds"), phase)
        for phase in ("queue", "prefill", "decode")
    ]
    return [
        Panel(
            "Time to first token",
            "From a request's arrival to its first text; waiting and a cold start count. "
            "LemonadeTimeToFirstToken fires when a model's p95 stays over the line.",
            *quantiles("time_to_first_token_seconds"),
            unit="s",
            steps=[(10, RED)],
        ),
        Panel(
            "Inter-token latency",
            "The time between two tokens of a request, of all gaps.",
            *quantiles("inter_token_latency_seconds"),
            unit="s",
        ),
        Panel(
            "Time per output token",
            "The mean gap between a request's tokens, by request.",
            *quantiles("time_per_output_token_seconds"),
            unit="s",
        ),
        Panel(
            "Request duration",
            "From arrival to end, of requests that came to their end.",
            *quantiles("request_duration_seconds"),
            unit="s",
        ),
        Panel(
            "Where the time goes (p95)",
            "Queue: to the start of the prefill, loads included. Prefill: to the first token. "
            "Decode: to the last one.",
            *phases,
            unit="s",
        ),
        Panel(
            "Error ratio",
            "Failed requests of those that came to an end; what was cancelled or rejected counts "
            "in neither. Requests for models that do not exist are the model `other`.",
            Target(f"{errors} / {ended}", "error ratio"),
            unit="percentunit",
            steps=[(0.05, RED)],
            max=1,
        ),
    ]
