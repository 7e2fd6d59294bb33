"""A metrics observer with a world to ask, and what a scrape of it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from lemonade_serve.domain import events
from lemonade_serve.domain.residency.slot import DeviceView, SlotState, SlotView
from lemonade_serve.telemetry.exposition import expose
from lemonade_serve.telemetry.gauges import Sources
from lemonade_serve.telemetry.metrics import MetricsObserver
from lemonade_serve.telemetry.observers import Observers
from lemonade_serve.telemetry.stats import StatsObserver

OPENMETRICS = "application/openmetrics-text"
WHERE = {"model": "small", "device": "cpu"}
CHECKPOINT = {**WHERE, "dtype": "int4"}


def finished(**fields: Any) -> events.RequestFinished:
    """A request that ended well, but for what is said otherwise."""
    usual = {
        "endpoint": "completions",
        "outcome": events.Outcome.OK,
        "reason": "stop",
        "prompt_tokens": 7,
        "cached_tokens": 2,
        "completion_tokens": 3,
        "duration_s": 4.0,
        "queue_s": 0.25,
        "prefill_s": 0.75,
        "decode_s": 3.0,
        "time_to_first_token": 1.0,
        "token_gaps": (1.0, 2.0),
    }
    return events.RequestFinished(**CHECKPOINT | usual | fields)


def refused(model: str | None, **fields: Any) -> events.RequestRefused:
    usual = {
        "endpoint": "completions",
        "outcome": events.Outcome.ERROR,
        "reason": "model_not_found",
    }
    return events.RequestRefused(**{"model": model} | usual | fields)


def requested(*, resident: bool, **fields: Any) -> events.CheckpointRequested:
    return events.CheckpointRequested(resident=resident, **CHECKPOINT | fields)


def decoded(sequences: int, **fields: Any) -> events.BatchDecoded:
    return events.BatchDecoded(sequences=sequences, **CHECKPOINT | fields)


def loaded(**fields: Any) -> events.CheckpointLoaded:
    usual = {
        "engine": "fake",
        "engine_reason": "it is a fake",
        "pid": 7,
        "load_s": 2.0,
        "memory_bytes": 100,
    }
    return events.CheckpointLoaded(**CHECKPOINT | usual | fields)


def load_failed(**fields: Any) -> events.CheckpointLoadFailed:
    return events.CheckpointLoadFailed(reason="cut", **CHECKPOINT | fields)


def unloaded(reason: events.Departure, **fields: Any) -> events.CheckpointUnloaded:
    return events.CheckpointUnloaded(
        **CHECKPOINT | {"reason": reason, "idle_s": 45.0, "how": "it exited"} | fields
    )


def slot(**fields: Any) -> SlotView:
    usual = {
        "path": Path("/cache/small/int4"),
        "state": SlotState.RESIDENT,
        "pinned": False,
        "streaming": False,
        "running": 1,
        "waiting": 2,
        "memory_bytes": 300,
        "last_use": 90.0,
        "kv_cache_tokens": 1000,
    }
    return SlotView(**CHECKPOINT | usual | fields)


def device(name: str) -> DeviceView:
    return DeviceView(
        device=name,
        execution_provider="cpu",
        max_models=2,
        models=1,
        memory_budget_bytes=1000,
        memory_used_bytes=300,
    )


class House:
    """It is 100 s on the clock and 5,000 s after 1970; `slots` may be changed at any time."""

    def __init__(self, *devices: str) -> None:
        self.slots: list[SlotView] = []
        self.draining = False
        self.stats = StatsObserver()
        self._devices = devices or ("cpu",)
        self.metrics = MetricsObserver(
            Sources(
                residency=lambda: (self.slots, [device(name) for name in self._devices]),
                last=self.stats,
                draining=lambda: self.draining,
                clock=lambda: 100.0,
                wall=lambda: 5000.0,
            ),
            devices=self._devices,
            version="1.2.3",
        )

    def see(self, *seen: events.Event) -> None:
        for event in seen:
            Observers(self.metrics, self.stats).observe(event)

    def text(self, accept: str = "") -> str:
        return expose(self.metrics, accept)[0].decode()

    def scrape(self, accept: str = "") -> dict[str, Metric]:
        """The families by name, as the library's own parsers read them. They take the suffix off
        a counter's name."""
        parse = parse_openmetrics if accept else parse_text
        return {family.name: family for family in parse(self.text(accept))}

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample there is; two of one name and labels are an error."""
        found = {}
        for family in self.scrape().values():
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found
                found[key] = sample.value
        return found

    def __call__(self, name: str, **labels: str) -> float | None:
        """One sample, with exactly these labels; None when it is not there."""
        return self.samples().get((f"lemonade_{name}", frozenset(labels.items())))

    def of(self, name: str, **labels: str) -> float | None:
        """One sample of `WHERE`."""
        return self(name, **WHERE, **labels)
