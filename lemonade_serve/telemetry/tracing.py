"""Traces of requests for an OpenTelemetry collector, drawn when a request has ended: on its way it
costs nothing. Numbers and names only; no prompt, no answer, no client, no key.

OpenTelemetry is imported when traces are wanted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import structlog

from lemonade_serve import __version__
from lemonade_serve.domain.events import (
    CatalogueListed,
    CheckpointEvent,
    CheckpointLoaded,
    CheckpointLoadFailed,
    CheckpointLoading,
    Event,
    Outcome,
    RequestFinished,
    RequestRefused,
)
from lemonade_serve.domain.ports import Observer
from lemonade_serve.settings import Server, Tracing, read_headers

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger()

Attribute = str | int | float | list[str]

_FLUSH_S = 0.5
"""At the end, for the spans that nobody has sent yet; the daemon itself has little longer."""
_OPERATIONS = {
    "chat_completions": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "v0_completions": "text_completion",
}


class _Load(NamedTuple):
    """When a checkpoint was loaded, in nanoseconds since 1970. `end` None: it still is."""

    begin: int
    end: int | None = None
    error: str = ""


class TracesObserver:
    """Draws a request as a server span with `queue` (and in it the `load` that it waited for),
    `prefill` and `decode` below it: those that it came to."""

    def __init__(
        self,
        tracer: Tracer,
        *,
        server: Mapping[str, Attribute],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`server` are attributes of every request; `clock_ns` counts from 1970."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._server = server
        self._clock_ns = clock_ns
        self._propagator = TraceContextTextMapPropagator()
        self._loads: dict[tuple[str, str, str], _Load] = {}
        """The last one of each checkpoint on each device."""

    def observe(self, event: Event) -> None:
        match event:
            case CheckpointLoading():
                self._loads[_where(event)] = _Load(self._clock_ns())
            case CheckpointLoaded():
                self._loaded(event, "")
            case CheckpointLoadFailed():
                self._loaded(event, "model_load_error")
            case CatalogueListed(models=models):
                self._loads = {
                    where: load for where, load in self._loads.items() if where[0] in models
                }
            case RequestFinished():
                self._finished(event)
            case RequestRefused():
                self._refused(event)

    def _loaded(self, event: CheckpointLoaded | CheckpointLoadFailed, error: str) -> None:
        if load := self._loads.get(_where(event)):
            self._loads[_where(event)] = load._replace(end=self._clock_ns(), error=error)

    def _finished(self, event: RequestFinished) -> None:
        end = self._clock_ns()
        begin = end - _ns(event.duration_s)
        request = self._request(event, begin, _operation(event), event.model)
        if request.is_recording():
            request.set_attributes(_attributes(event))
            self._phases(event, request, begin, end)
        _judge(request, event)
        request.end(end)

    def _refused(self, event: RequestRefused) -> None:
        end = self._clock_ns()
        request = self._request(event, end - _ns(event.duration_s), _operation(event), "")
        _judge(request, event)
        request.end(end)

    def _phases(self, event: RequestFinished, request: Span, begin: int, end: int) -> None:
        started = end if event.queue_s is None else begin + _ns(event.queue_s)
        queue = self._child("queue", request, begin, started)
        load = self._loads.get((event.model, event.device, event.dtype))
        if load and (load.end or end) > begin and load.begin < started:
            span = self._child("load", queue, max(begin, load.begin), min(load.end or end, started))
            if load.error:
                _fail(span, load.error)
            span.end(min(load.end or end, started))
        queue.end(started)
        if event.prefill_s is not None:
            first = started + _ns(event.prefill_s)
            self._child("prefill", request, started, first).end(first)
            if event.decode_s is not None:
                self._child("decode", request, first, first + _ns(event.decode_s)).end(
                    first + _ns(event.decode_s)
                )

    def _request(
        self, event: RequestFinished | RequestRefused, begin: int, operation: str, model: str
    ) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract({"traceparent": event.traceparent}, Context())
        attributes: dict[str, Attribute] = {
            **self._server,
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "lemonade-serve",
            "lemonade.endpoint": event.endpoint,
            "lemonade.outcome": event.outcome.value,
        }
        return self._tracer.start_span(
            f"{operation} {model}".strip(), parent, SpanKind.SERVER, attributes, start_time=begin
        )

    def _child(self, name: str, parent: Span, begin: int, end: int) -> Span:
        return self._tracer.start_span(name, _within(parent), start_time=min(begin, end))


@asynccontextmanager
async def traces(settings: Tracing, server: Server) -> AsyncGenerator[Observer | None]:
    """An observer that sends traces where the settings say, in batches and from a thread of its
    own; None if they say nothing. What the collector does not take in time is dropped. Raises
    SettingsError."""
    if settings.endpoint is None:
        yield None
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        resource=Resource.create(
            {"service.name": settings.service_name, "service.version": __version__}
        ),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(
        endpoint=settings.endpoint, headers=read_headers(settings), timeout=settings.timeout_s
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=settings.max_queue_spans,
            max_export_batch_size=min(512, settings.max_queue_spans),
            schedule_delay_millis=settings.interval_s * 1000,
        )
    )
    try:
        yield TracesObserver(provider.get_tracer("lemonade_serve", __version__), server=_of(server))
    finally:
        await _in_time(provider.shutdown)


async def _in_time(flush: Callable[[], None]) -> None:
    """In a thread that nobody waits for: a collector that is not there must not hold the end up."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        flush()
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="traces", daemon=True).start()
    try:
        async with asyncio.timeout(_FLUSH_S):
            await done.wait()
    except TimeoutError:
        log.warning("traces_lost", reason=f"the collector took nothing within {_FLUSH_S:g} s")


def _of(server: Server) -> dict[str, Attribute]:
    if server.uds:
        return {"server.address": server.uds}
    return {"server.address": server.host, "server.port": server.port}


def _attributes(event: RequestFinished) -> dict[str, Attribute]:
    said = event.generates and event.outcome is Outcome.OK
    found: dict[str, Attribute | None] = {
        "gen_ai.request.model": event.answered_by,
        "gen_ai.response.model": event.answered_by,
        "gen_ai.response.finish_reasons": [event.reason] if said else None,
        "gen_ai.response.time_to_first_chunk": event.time_to_first_token,
        "gen_ai.usage.input_tokens": event.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": event.cached_tokens,
        "gen_ai.usage.output_tokens": event.completion_tokens if event.generates else None,
        "lemonade.device": event.device,
        "lemonade.dtype": event.dtype,
    }
    return {name: value for name, value in found.items() if value is not None}


def _judge(request: Span, event: RequestFinished | RequestRefused) -> None:
    """A client that left is no error of ours."""
    if event.outcome in (Outcome.ERROR, Outcome.REJECTED):
        _fail(request, event.reason)


def _fail(span: Span, code: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR)


def _within(parent: Span) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(parent, Context())


def _operation(event: RequestFinished | RequestRefused) -> str:
    return _OPERATIONS.get(event.endpoint, event.endpoint)


def _where(event: CheckpointEvent) -> tuple[str, str, str]:
    return event.model, event.device, event.dtype


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
