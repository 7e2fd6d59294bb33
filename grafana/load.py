"""What is asked of the daemon."""

from __future__ import annotations

from grafana.panels import (
    HeatMap,
    Panel,
    Table,
    Target,
    joined,
)
from grafana.queries import (
    INSTANCE,
    MODEL,
    gauge,
    heat,
    rate,
)


def load() -> list[Panel]:
    tokens = [
        Target(rate(f"{kind}_tokens_total", MODEL), legend)
        for kind, legend in (
            ("generated", "generated"),
            ("prompt", "prompt"),
            ("cached_prompt", "prompt, cached"),
        )
    ]
    cached = rate("cached_prompt_tokens_total", MODEL)
    return [
        Panel(
            "Running and waiting requests",
            "Waiting: for room, for a load or for a sequence slot.",
            Target(gauge("requests_running"), "running {{model}} on {{device}}"),
            Target(gauge("requests_waiting"), "waiting {{model}} on {{device}}"),
            unit="short",
        ),
        Panel(
            "Requests by outcome",
            "Requests that ended, per second.",
            Target(rate("requests_total", MODEL, "outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Requests by endpoint",
            "Requests that ended, per second, however they ended.",
            Target(rate("requests_total", MODEL, "endpoint"), "{{endpoint}}"),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Rejected requests by reason",
            "Turned away per second; they may be sent again later. rate_limit_error: the queue of "
            "a model or of a client is full. No variable but the instance narrows this.",
            Target(rate("requests_rejected_total", INSTANCE, "reason"), "{{reason}}"),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Tokens per second",
            "Counted when a request ends; cached prompt tokens are among the prompt tokens.",
            *tokens,
            unit="short",
        ),
        Panel(
            "Tokens being decoded per second",
            "Counted at each step, also of requests that still run.",
            Target(rate("batch_size_sum", MODEL, "model, device"), "{{model}} on {{device}}"),
            unit="short",
            stacked=True,
        ),
        HeatMap(
            "Prompt lengths",
            "Tokens of a request's prompt.",
            heat("request_prompt_tokens"),
            unit="short",
        ),
        HeatMap(
            "Output lengths",
            "Tokens generated for a request.",
            heat("request_generated_tokens"),
            unit="short",
        ),
        HeatMap(
            "Batch sizes",
            "Sequences that advance together in one step.",
            heat("batch_size"),
            unit="short",
        ),
        Panel(
            "Cached part of prompts",
            "Prompt tokens that did not have to be computed, for an earlier prompt began so.",
            Target(f"{cached} / {rate('prompt_tokens_total', MODEL)}", "cached"),
            unit="percentunit",
            max=1,
        ),
        Panel(
            "KV cache in use",
            "Tokens of running sequences, to those that there is room for.",
            Target(
                f"max by (instance, model, device) (lemonade_kv_cache_usage_ratio{{{MODEL}}})",
                "{{model}} on {{device}}",
            ),
            unit="percentunit",
            max=1,
        ),
        Table(
            "Last good request",
            "What `/api/v0/stats` says, of each model.",
            *(
                Target(gauge(f"last_request_{name}"), format="table")
                for name in (
                    "time_to_first_token_seconds",
                    "tokens_per_second",
                    "input_tokens",
                    "output_tokens",
                )
            ),
            unit="short",
            **joined("time to first token (s)", "tokens/s", "prompt tokens", "generated tokens"),
        ),
    ]
