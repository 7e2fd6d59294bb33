"""What Prometheus is told: the events of the domain, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from prometheus_client import CollectorRegistry, Info, ProcessCollector

from lemonade_serve import errors
from lemonade_serve.domain.events import (
    BatchDecoded,
    CatalogueListed,
    CheckpointEvent,
    CheckpointLoaded,
    CheckpointLoadFailed,
    CheckpointRequested,
    CheckpointUnloaded,
    Departure,
    Event,
    Outcome,
    RequestFinished,
    RequestRefused,
)
from lemonade_serve.telemetry.families import NO_DEVICE, Families
from lemonade_serve.telemetry.gauges import Gauges, Sources
from lemonade_serve.telemetry.series import MODEL, PREFIX

GENERATING = ("v0_completions", "completions", "chat_completions", "responses")
ENCODING = {"embedding": "embeddings", "rerank": "rerank"}
"""By what a model is made for."""
ENDPOINTS = (*GENERATING, *ENCODING.values())
OTHER = "other"
"""Stands for whatever a closed set does not have."""

_EVICTED = (Departure.LRU, Departure.TTL, Departure.PRESSURE)
_OUTCOMES = [outcome.value for outcome in Outcome]
_ENDED = [Outcome.OK.value, Outcome.ERROR.value]
"""How a load may."""
_REASONS = [reason.value for reason in Departure]
_NONE: Mapping[str, str] = {}


class MetricsObserver:
    """Counts, and has `registry` for what is asked for at the scrape.

    The label `model` is a name that the catalogue has: `know` tells of it, or an event of a
    checkpoint. What else a client may have named is `other`. Of a model that is forgotten nothing
    is left, until an event names it again.
    """

    def __init__(self, sources: Sources, *, devices: Sequence[str], version: str) -> None:
        self.families = Families()
        self.registry = CollectorRegistry()
        self._devices = devices
        self._models: dict[str, None] = {}
        self._crashed: set[tuple[str, str]] = set()
        self._reasons = {*_codes(errors.Retryable), OTHER}
        self.registry.register(Gauges(sources, models=self._models.keys(), devices=devices))
        Info(f"{PREFIX}build", "What runs here.", registry=self.registry).info({"version": version})
        ProcessCollector(registry=self.registry)
        self._start()

    def know(self, models: Iterable[str], encoders: Mapping[str, str] = _NONE) -> None:
        """Models of the catalogue, and what those that encode are made for; those that are known
        already keep their counts. A model's series begin with the endpoints that are for it."""
        for model in models:
            if model not in self._models:
                self._models[model] = None
                task = encoders.get(model)
                endpoints = GENERATING if task is None else (ENCODING[task],)
                self._start_refused(model, endpoints)
                for device in self._devices:
                    self._start_model(model, device, endpoints)

    def forget(self, model: str) -> None:
        """A model that is not in the catalogue any more."""
        self._models.pop(model, None)
        self._crashed = {where for where in self._crashed if where[0] != model}
        for family in self.families.all():
            family.forget(model)

    def observe(self, event: Event) -> None:
        if isinstance(event, CheckpointEvent | RequestFinished):
            self.know([event.model])
        match event:
            case BatchDecoded():  # by far the most frequent
                self.families.batch.observe([event.sequences], event.model, event.device)
            case RequestFinished():
                self._finished(event)
            case RequestRefused():
                named = event.model or OTHER
                self._ended(event, named if named in self._models else OTHER, NO_DEVICE)
            case CatalogueListed(models=models, encoders=encoders):
                self.know(sorted(models), encoders)
                for model in [model for model in self._models if model not in models]:
                    self.forget(model)
            case CheckpointRequested():
                pool = self.families.hits if event.resident else self.families.misses
                pool.add(1, event.model, event.device)
            case CheckpointLoaded():
                self._loaded(event)
            case CheckpointLoadFailed():
                self.families.loads.add(1, event.model, event.device, Outcome.ERROR.value)
            case CheckpointUnloaded():
                self._unloaded(event)

    def _finished(self, event: RequestFinished) -> None:
        to, where = self.families, (event.model, event.device)
        self._ended(event, *where)
        to.prompt_tokens.add(event.prompt_tokens, *where)
        to.cached_prompt_tokens.add(event.cached_tokens, *where)
        to.generated_tokens.add(event.completion_tokens, *where)
        to.first_token.observe([event.time_to_first_token], *where)
        to.token_gaps.observe(event.token_gaps, *where)
        to.per_token.observe([event.time_per_output_token], *where)
        to.queue.observe([event.queue_s], *where)
        to.prefill.observe([event.prefill_s], *where)
        if event.outcome is Outcome.OK:
            to.duration.observe([event.duration_s], *where, _endpoint(event))
            to.decode.observe([event.decode_s], *where)
            to.prompt_length.observe([event.prompt_tokens], *where)
        if event.outcome is Outcome.OK and event.generates:
            to.generated_length.observe([event.completion_tokens], *where)

    def _ended(self, event: RequestFinished | RequestRefused, model: str, device: str) -> None:
        self.families.requests.add(1, model, device, _endpoint(event), event.outcome.value)
        if event.outcome is Outcome.REJECTED:
            reason = event.reason if event.reason in self._reasons else OTHER
            self.families.rejected.add(1, reason)

    def _loaded(self, event: CheckpointLoaded) -> None:
        where = (event.model, event.device)
        self.families.loads.add(1, *where, Outcome.OK.value)
        self.families.load_duration.observe([event.load_s], *where)
        if where in self._crashed:
            self._crashed.remove(where)
            self.families.restarts.add(1, event.device, Departure.CRASH.value)

    def _unloaded(self, event: CheckpointUnloaded) -> None:
        where = (event.model, event.device)
        self.families.evictions.add(1, *where, event.reason.value)
        if event.reason in _EVICTED:
            self.families.idle.observe([event.idle_s], event.device)
        if event.reason is Departure.CRASH:
            self._crashed.add(where)

    def _start(self) -> None:
        self._start_refused(OTHER, ENDPOINTS)
        for reason in sorted(self._reasons):
            self.families.rejected.start(reason)
        for device in self._devices:
            self.families.idle.start(device)
            self.families.restarts.start(device, Departure.CRASH.value)

    def _start_refused(self, model: str, endpoints: Sequence[str]) -> None:
        for endpoint, outcome in product(endpoints, Outcome):
            if outcome is not Outcome.OK:
                self.families.requests.start(model, NO_DEVICE, endpoint, outcome.value)

    def _start_model(self, model: str, device: str, endpoints: Sequence[str]) -> None:
        for family in self.families.all():
            if family.labels[:2] == (MODEL, "device"):
                for more in _more_labels(family.labels[2:], endpoints):
                    family.start(model, device, *more)


def _endpoint(event: RequestFinished | RequestRefused) -> str:
    return event.endpoint if event.endpoint in ENDPOINTS else OTHER


def _more_labels(labels: Sequence[str], endpoints: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """What a model's children on a device are labelled with besides."""
    ended = _ENDED if labels == ("outcome",) else _OUTCOMES
    known = {"endpoint": endpoints, "outcome": ended, "reason": _REASONS}
    return product(*(known[label] for label in labels))


def _codes(error: type[errors.LemonadeError]) -> Iterator[str]:
    for kind in error.__subclasses__():
        yield kind.code
        yield from _codes(kind)
