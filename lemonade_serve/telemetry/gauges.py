"""What is not counted but asked for, at each scrape: the slots, the devices, the last requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lemonade_serve.domain.events import RequestFinished
from lemonade_serve.domain.ports import Clock, LastRequests
from lemonade_serve.domain.residency.slot import DeviceView, SlotState, SlotView
from lemonade_serve.telemetry.series import MODEL, PREFIX

Residency = Callable[[], tuple[Sequence[SlotView], Sequence[DeviceView]]]
"""The slots and the devices as they are now; looking changes nothing."""

UNLOADED = "unloaded"
_STATES = (UNLOADED, *(state.value for state in SlotState))


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask. `clock` is the one that slots are timed by; `wall` counts from 1970."""

    residency: Residency
    last: LastRequests
    draining: Callable[[], bool]
    clock: Clock
    wall: Clock


class Gauges(Collector):
    """Families of the library, made anew for each scrape. Reads and never changes anything.

    `models` are the known ones: each has its series on each of `devices`, whether or not it has a
    slot there. Two checkpoints of one model on one device (say, of two dtypes) share their series.
    """

    def __init__(
        self, sources: Sources, *, models: Collection[str], devices: Sequence[str]
    ) -> None:
        self._sources = sources
        self._models = models
        self._devices = devices

    def collect(self) -> Iterator[GaugeMetricFamily]:
        slots, devices = self._sources.residency()
        yield from self._of_models(slots)
        yield from _of_devices(devices)
        yield from self._of_last_requests()
        draining = _family("draining", "1 while the daemon is shutting down.")
        draining.add_metric([], self._sources.draining())
        yield draining

    def _of_models(self, slots: Sequence[SlotView]) -> Iterable[GaugeMetricFamily]:
        running = _of_model("requests_running", "Requests that the engine has begun with.")
        waiting = _of_model(
            "requests_waiting", "Requests that wait: for room, for the load or for a sequence slot."
        )
        state = _of_model("model_state", "1 for the states that a model is in.", "state")
        pinned = _of_model("model_pinned", "1 while a model is there and exempt from eviction.")
        memory = _of_model(
            "model_memory_bytes",
            "What a model is charged for: estimated before its load, then what was measured and "
            "the room that its KV cache has left.",
        )
        kv_cache = _of_model(
            "kv_cache_usage_ratio",
            "Tokens of the sequences that run, to those that the KV cache has room for.",
        )
        last_used = _of_model(
            "model_last_used_timestamp_seconds", "When a model that is there was last used."
        )
        since_1970 = self._sources.wall() - self._sources.clock()
        for labels, here in self._by_labels(slots).items():
            running.add_metric(labels, sum(slot.running for slot in here))
            waiting.add_metric(labels, sum(slot.waiting for slot in here))
            states = {slot.state.value for slot in here} or {UNLOADED}
            for name in _STATES:
                state.add_metric((*labels, name), name in states)
            pinned.add_metric(labels, any(slot.pinned for slot in here))
            memory.add_metric(labels, sum(slot.memory_bytes for slot in here))
            room = sum(slot.kv_cache_tokens for slot in here)
            kv_cache.add_metric(labels, sum(slot.kv_tokens for slot in here) / (room or 1))
            if here:
                last_used.add_metric(labels, since_1970 + max(slot.last_use for slot in here))
        return running, waiting, state, pinned, memory, kv_cache, last_used

    def _by_labels(self, slots: Sequence[SlotView]) -> dict[tuple[str, str], list[SlotView]]:
        grouped: dict[tuple[str, str], list[SlotView]] = defaultdict(list)
        for model in self._models:
            for device in self._devices:
                grouped[model, device] = []
        for slot in slots:
            grouped[slot.model, slot.device].append(slot)
        return grouped

    def _of_last_requests(self) -> Iterator[GaugeMetricFamily]:
        requests = [last for model in self._models if (last := self._sources.last.last(model))]
        for name, help, value in _LAST_REQUEST:
            family = _of_model(f"last_request_{name}", f"{help} of the model's last good request.")
            for request in requests:
                if (known := value(request)) is not None:
                    family.add_metric((request.model, request.device), known)
            yield family


_LAST_REQUEST: tuple[tuple[str, str, Callable[[RequestFinished], float | None]], ...] = (
    (
        "time_to_first_token_seconds",
        "From arrival to the first text,",
        lambda request: request.time_to_first_token,
    ),
    (
        "tokens_per_second",
        "Tokens per second of decoding,",
        lambda request: request.tokens_per_second,
    ),
    ("input_tokens", "Prompt tokens", lambda request: request.prompt_tokens),
    ("output_tokens", "Generated tokens", lambda request: request.completion_tokens),
)


def _of_devices(devices: Sequence[DeviceView]) -> Iterable[GaugeMetricFamily]:
    budget = _family("device_memory_budget_bytes", "Room for models.", "device")
    used = _family("device_memory_used_bytes", "What all models are charged for.", "device")
    for view in devices:
        budget.add_metric([view.device], view.memory_budget_bytes)
        used.add_metric([view.device], view.memory_used_bytes)
    return budget, used


def _of_model(name: str, help: str, *more: str) -> GaugeMetricFamily:
    return _family(name, help, MODEL, "device", *more)


def _family(name: str, help: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, help, labels=labels)
