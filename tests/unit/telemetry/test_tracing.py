"""Requests as spans, by OpenTelemetry's own SDK."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from lemonade_serve.domain.events import CatalogueListed, CheckpointLoading, Event, Outcome
from lemonade_serve.settings import Server, Tracing
from lemonade_serve.telemetry.tracing import TracesObserver, traces
from tests.fakes import asynchronous
from tests.unit.telemetry.house import CHECKPOINT, decoded, finished, load_failed, loaded, refused

S = 10**9
NOW = 1000 * S
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class House:
    """An observer whose time the test says, and the spans that came of it."""

    def __init__(self, *, ratio: float = 1.0) -> None:
        self.now = NOW
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        server: dict[str, Any] = {"server.address": "127.0.0.1", "server.port": 1234}
        self._observer = TracesObserver(
            provider.get_tracer("test"), server=server, clock_ns=lambda: self.now
        )

    def at(self, seconds: float, event: Event) -> None:
        """Something happens so long after the beginning."""
        self.now = NOW + int(seconds * S)
        self._observer.observe(event)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._kept.get_finished_spans()}

    @property
    def times(self) -> dict[str, tuple[float, float]]:
        """When each span began and ended, in seconds after the beginning."""
        return {
            name: ((span.start_time - NOW) / S, (span.end_time - NOW) / S)  # type: ignore[operator]
            for name, span in self.spans.items()
        }

    @property
    def request(self) -> ReadableSpan:
        (span,) = (span for span in self.spans.values() if span.kind is SpanKind.SERVER)
        return span


def loading() -> CheckpointLoading:
    return CheckpointLoading(reserved_bytes=1, **CHECKPOINT)


def test_a_request_is_a_span_and_its_phases_are_below_it() -> None:
    house = House()
    house.at(4, finished())
    assert house.times == {
        "text_completion small": (0, 4),
        "queue": (0, 0.25),
        "prefill": (0.25, 1),
        "decode": (1, 4),
    }
    parents = {name: span.parent.span_id for name, span in house.spans.items() if span.parent}
    assert set(parents) == {"queue", "prefill", "decode"}
    assert set(parents.values()) == {house.request.context.span_id}
    assert house.request.status.status_code is StatusCode.UNSET


def test_its_attributes_are_those_of_generative_models() -> None:
    house = House()
    house.at(4, finished(endpoint="chat_completions"))
    assert dict(house.request.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lemonade-serve",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": "small",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 1.0,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.output_tokens": 3,
        "server.address": "127.0.0.1",
        "server.port": 1234,
        "lemonade.endpoint": "chat_completions",
        "lemonade.outcome": "ok",
        "lemonade.device": "cpu",
        "lemonade.dtype": "int4",
    }


def test_what_generates_nothing_has_no_word_of_an_answer() -> None:
    house = House()
    silent = {"prefill_s": None, "decode_s": None, "time_to_first_token": None}
    house.at(4, finished(endpoint="embeddings", generates=False, completion_tokens=0, **silent))
    assert house.times == {"embeddings small": (0, 4), "queue": (0, 0.25)}
    attributes = dict(house.request.attributes or {})
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert "gen_ai.usage.output_tokens" not in attributes
    assert "gen_ai.response.finish_reasons" not in attributes


def test_a_load_that_it_waited_for_is_in_its_queue() -> None:
    house = House()
    house.at(1, loading())
    house.at(2, loaded())
    house.at(4, finished(duration_s=4.0, queue_s=2.5, prefill_s=0.5, decode_s=1.0))
    assert (house.times["queue"], house.times["load"]) == ((0, 2.5), (1, 2))
    load = house.spans["load"]
    assert load.parent
    assert load.parent.span_id == house.spans["queue"].context.span_id


def test_of_a_load_that_had_begun_before_it_sees_the_rest() -> None:
    house = House()
    house.at(-3, loading())
    house.at(2, loaded())
    house.at(4, finished(queue_s=2.5))
    assert house.times["load"] == (0, 2)


@pytest.mark.parametrize("other", [-1.0, 5.0])
def test_a_load_at_another_time_or_of_another_model_is_none_of_its_business(other: float) -> None:
    house = House()
    house.at(-3, loading())
    house.at(-1, loaded())
    house.at(0.1, CheckpointLoading(reserved_bytes=1, **{**CHECKPOINT, "device": "npu"}))
    house.at(other, decoded(3))
    house.at(4, finished())
    assert "load" not in house.spans


def test_a_load_that_failed_is_a_failure_and_so_is_its_request() -> None:
    house = House()
    house.at(1, loading())
    house.at(2, load_failed())
    nothing = {"queue_s": None, "prefill_s": None, "decode_s": None, "time_to_first_token": None}
    failure = {"outcome": Outcome.ERROR, "reason": "model_load_error", "duration_s": 2.0}
    house.at(2, finished(**nothing, **failure, completion_tokens=0, token_gaps=()))
    assert house.times == {"text_completion small": (0, 2), "queue": (0, 2), "load": (1, 2)}
    for span in (house.request, house.spans["load"]):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "model_load_error"
    assert "gen_ai.response.finish_reasons" not in (house.request.attributes or {})


def test_a_client_that_left_is_no_failure() -> None:
    house = House()
    house.at(4, finished(outcome=Outcome.CANCELLED, reason="cancelled"))
    assert house.request.status.status_code is StatusCode.UNSET
    assert (house.request.attributes or {})["lemonade.outcome"] == "cancelled"


def test_what_is_refused_is_a_span_without_the_name_that_its_caller_said() -> None:
    house = House()
    house.at(1, refused("whatever a client may say", duration_s=0.5))
    assert house.times == {"text_completion": (0.5, 1)}
    assert (house.request.attributes or {})["error.type"] == "model_not_found"
    assert "whatever" not in house.request.to_json()


def test_it_goes_on_with_its_callers_trace() -> None:
    house = House(ratio=0.0)
    house.at(4, finished(traceparent=f"00-{TRACE}-{PARENT}-01"))
    assert f"{house.request.context.trace_id:032x}" == TRACE
    assert house.request.parent
    assert f"{house.request.parent.span_id:016x}" == PARENT
    assert len(house.spans) == 4


def test_who_does_not_want_a_trace_gets_none() -> None:
    house = House()
    house.at(4, finished(traceparent=f"00-{TRACE}-{PARENT}-00"))
    assert house.spans == {}


@pytest.mark.parametrize("given", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "00-x-y-01"])
def test_what_is_no_traceparent_begins_a_trace(given: str) -> None:
    house = House()
    house.at(4, finished(traceparent=given))
    assert house.request.parent is None


def test_loads_of_models_that_are_gone_are_forgotten() -> None:
    house = House()
    house.at(1, loading())
    house.at(2, loaded())
    house.at(2, CatalogueListed(models=frozenset()))
    house.at(4, finished(queue_s=2.5))
    assert "load" not in house.spans


@asynchronous
async def test_without_an_endpoint_there_are_none() -> None:
    async with traces(Tracing(), Server()) as observer:
        assert observer is None


def test_opentelemetry_is_imported_when_traces_are_wanted() -> None:
    code = (
        "import sys, lemonade_serve.app\n"
        "sys.exit(' '.join({'opentelemetry', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
