"""Which models are there."""

from __future__ import annotations

from grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    YELLOW,
    HeatMap,
    Panel,
    StateTimeline,
    Table,
    Target,
    joined,
)
from grafana.queries import (
    DEVICE,
    MODEL,
    WINDOW,
    gauge,
    heat,
    quantile,
    rate,
)

STATES = (
    ("unloaded", GREY),
    ("waiting", ORANGE),
    ("loading", YELLOW),
    ("resident", GREEN),
    ("draining", BLUE),
    ("unloading", "purple"),
)
"""What `lemonade_model_state` may say; a state's number on the timeline is its place here."""


def pool() -> list[Panel]:
    states = " or ".join(
        f'{place} * (lemonade_model_state{{{MODEL}, state="{state}"}} == 1)'
        for place, (state, _) in enumerate(STATES)
    )
    named = {
        str(place): {"color": colour, "index": place, "text": state}
        for place, (state, colour) in enumerate(STATES)
    }
    hits, misses = (rate(f"model_pool_{what}_total", MODEL) for what in ("hits", "misses"))
    loads = "lemonade_model_loads_total"
    return [
        StateTimeline(
            "State of each model",
            "Of a model with checkpoints of several dtypes on a device, the most active one.",
            Target(f"max by (instance, model, device) ({states})", "{{model}} on {{device}}"),
            unit="short",
            width=16,
            mappings=[{"options": named, "type": "value"}],
        ),
        Panel(
            "Memory against budget",
            "What all models of a device are charged for, and the room that there is.",
            Target(
                gauge("device_memory_used_bytes", DEVICE, "instance, device"), "{{device}} used"
            ),
            Target(
                gauge("device_memory_budget_bytes", DEVICE, "instance, device"), "{{device}} budget"
            ),
            unit="bytes",
        ),
        Panel(
            "Memory by model",
            "What each model is charged for: estimated before its load, then measured, with the "
            "room of its KV cache.",
            Target(gauge("model_memory_bytes"), "{{model}} on {{device}}"),
            unit="bytes",
            stacked=True,
        ),
        Panel(
            "Pool hit ratio",
            "Requests that found their model resident.",
            Target(f"{hits} / ({hits} + {misses})", "hits"),
            unit="percentunit",
            max=1,
        ),
        Panel(
            "Loads",
            "Loads that ended, by how, in each step.",
            Target(f"sum by (outcome) (increase({loads}{{{MODEL}}}{WINDOW}))", "{{outcome}}"),
            unit="short",
            style="bars",
            stacked=True,
        ),
        Panel(
            "Departures by reason",
            "lru: another model needed the room. ttl: idle for too long. pressure: its device was "
            "over its budget. manual: a caller's unload. crash: its worker died.",
            Target(
                f"sum by (reason) (increase(lemonade_model_evictions_total{{{MODEL}}}{WINDOW}))",
                "{{reason}}",
            ),
            unit="short",
            style="bars",
            stacked=True,
        ),
        Panel(
            "Load duration (p95)",
            "Of good loads, by model.",
            Target(
                quantile(95, "model_load_duration_seconds", by="model, device, le"),
                "{{model}} on {{device}}",
            ),
            unit="s",
        ),
        HeatMap(
            "Idle at eviction",
            "Seconds since a model's last use when the pool let it go. Much in low rows: the "
            "models that are wanted do not fit.",
            heat("model_idle_at_eviction_seconds", DEVICE),
            unit="s",
        ),
        Panel(
            "Worker restarts",
            "Loads of what had left by a crash, in each step.",
            Target(
                "sum by (device, reason) "
                f"(increase(lemonade_worker_restarts_total{{{DEVICE}}}{WINDOW}))",
                "{{reason}} on {{device}}",
            ),
            unit="short",
            style="bars",
            steps=[(3, RED)],
        ),
        Table(
            "Models now",
            "Of those that are loaded, how long ago they were used.",
            Target(
                "time() - max by (instance, model, device) "
                f"(lemonade_model_last_used_timestamp_seconds{{{MODEL}}})",
                format="table",
            ),
            Target(gauge("model_memory_bytes"), format="table"),
            Target(
                f"max by (instance, model, device) (lemonade_model_pinned{{{MODEL}}})",
                format="table",
            ),
            unit="short",
            width=16,
            **joined("last used (s ago)", "memory (bytes)", "pinned"),
        ),
    ]
