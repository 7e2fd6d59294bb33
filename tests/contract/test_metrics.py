"""The families that dashboards and alerts are written against."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from lemonade_serve.domain.events import Departure, Outcome
from tests.unit.telemetry.house import (
    House,
    finished,
    load_failed,
    loaded,
    refused,
    requested,
    slot,
    unloaded,
)

WHERE = {"model", "device"}

FAMILIES: dict[str, tuple[str, set[str]]] = {
    "requests_total": ("counter", {*WHERE, "endpoint", "outcome"}),
    "requests_rejected_total": ("counter", {"reason"}),
    "prompt_tokens_total": ("counter", WHERE),
    "cached_prompt_tokens_total": ("counter", WHERE),
    "generated_tokens_total": ("counter", WHERE),
    "request_duration_seconds": ("histogram", {*WHERE, "endpoint"}),
    "time_to_first_token_seconds": ("histogram", WHERE),
    "time_per_output_token_seconds": ("histogram", WHERE),
    "inter_token_latency_seconds": ("histogram", WHERE),
    "request_queue_duration_seconds": ("histogram", WHERE),
    "request_prefill_duration_seconds": ("histogram", WHERE),
    "request_decode_duration_seconds": ("histogram", WHERE),
    "request_prompt_tokens": ("histogram", WHERE),
    "request_generated_tokens": ("histogram", WHERE),
    "requests_running": ("gauge", WHERE),
    "requests_waiting": ("gauge", WHERE),
    "model_state": ("gauge", {*WHERE, "state"}),
    "model_pinned": ("gauge", WHERE),
    "model_memory_bytes": ("gauge", WHERE),
    "model_last_used_timestamp_seconds": ("gauge", WHERE),
    "kv_cache_usage_ratio": ("gauge", WHERE),
    "batch_size": ("histogram", WHERE),
    "model_loads_total": ("counter", {*WHERE, "outcome"}),
    "model_load_duration_seconds": ("histogram", WHERE),
    "model_evictions_total": ("counter", {*WHERE, "reason"}),
    "model_idle_at_eviction_seconds": ("histogram", {"device"}),
    "model_pool_hits_total": ("counter", WHERE),
    "model_pool_misses_total": ("counter", WHERE),
    "device_memory_budget_bytes": ("gauge", {"device"}),
    "device_memory_used_bytes": ("gauge", {"device"}),
    "worker_restarts_total": ("counter", {"device", "reason"}),
    "last_request_time_to_first_token_seconds": ("gauge", WHERE),
    "last_request_tokens_per_second": ("gauge", WHERE),
    "last_request_input_tokens": ("gauge", WHERE),
    "last_request_output_tokens": ("gauge", WHERE),
    "draining": ("gauge", set()),
    "build_info": ("gauge", {"version"}),
}

PER_TOKEN = [
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
]
REQUEST = [
    0.01,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    60,
    120,
    240,
    480,
    960,
]
TOKENS = [m * 10**e for e in range(5) for m in (1, 2, 5)] + [100_000]
BUCKETS = {
    "time_to_first_token_seconds": [
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5),
        *(0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640),
    ],
    "time_per_output_token_seconds": PER_TOKEN,
    "inter_token_latency_seconds": PER_TOKEN,
    "request_duration_seconds": REQUEST,
    "request_queue_duration_seconds": REQUEST,
    "request_prefill_duration_seconds": REQUEST,
    "request_decode_duration_seconds": REQUEST,
    "model_load_duration_seconds": [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600],
    "batch_size": [1, 2, 4, 8, 16, 32, 64],
    "request_prompt_tokens": TOKENS,
    "request_generated_tokens": TOKENS,
}


@pytest.fixture
def busy() -> House:
    """A house where everything has happened that can."""
    house = House("npu", "cpu")
    house.metrics.know(["small", "org/large", 'odd "name" \\ here'])
    house.slots = [slot(pinned=True)]
    house.see(
        *(finished(outcome=outcome, reason="no_capacity") for outcome in Outcome),
        finished(),
        refused("nobody", outcome=Outcome.REJECTED, reason="draining"),
        requested(resident=True),
        requested(resident=False),
        load_failed(),
        *(unloaded(reason) for reason in Departure),
        unloaded(Departure.CRASH),
        loaded(),
    )
    return house


def test_the_families_are_these_with_these_labels(busy: House) -> None:
    found = {}
    for family in busy.scrape().values():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples}
        if name.startswith("lemonade_"):
            (labels_of_all,) = labels
            found[name.removeprefix("lemonade_")] = (family.type, set(labels_of_all))
    assert found == FAMILIES


@pytest.mark.parametrize("name", BUCKETS)
def test_the_buckets_are_these(busy: House, name: str) -> None:
    samples = busy.scrape()[f"lemonade_{name}"].samples
    bounds = {float(sample.labels["le"]) for sample in samples if "le" in sample.labels}
    assert sorted(bounds) == [*BUCKETS[name], float("inf")]


@pytest.mark.system
def test_promtool_has_nothing_to_say(busy: House) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "there is no promtool: install Debian's package `prometheus`"
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=busy.text().encode(),
        capture_output=True,
        check=False,
    )
    said = (checked.stdout + checked.stderr).decode()
    assert (checked.returncode, said) == (0, "")
