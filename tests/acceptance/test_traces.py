"""Traces of a real daemon, as a real collector gets them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.collector import Collector, Span, collecting
from tests.daemon import MODEL, Daemon, eventually

KEY, COLLECTORS_KEY = "key-of-ann", "key-of-the-collector"
PROMPT = "Nobody but the model may read this"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER = 2
"""The kind of a span."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def settings(url: str) -> dict[str, str]:
    return {
        "LEMONADE_API_KEYS__ANN": KEY,
        "LEMONADE_TRACING__ENDPOINT": url,
        "LEMONADE_TRACING__HEADERS__X_API_KEY": COLLECTORS_KEY,
        "LEMONADE_TRACING__SERVICE_NAME": "the-house",
        "LEMONADE_TRACING__INTERVAL_S": "0.05",
    }


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon], collector: Collector, tmp_path: Path) -> Daemon:
    file = tmp_path / "headers"
    file.write_text(f'Authorization = "Bearer {COLLECTORS_KEY}"')
    by_file = {"LEMONADE_TRACING__HEADERS_FILE": str(file)}
    daemon = start_daemon(**settings(collector.url) | by_file)
    daemon.client.headers["Authorization"] = f"Bearer {KEY}"
    return daemon


def request(collector: Collector, **attributes: Any) -> Span:
    """The one request that has these attributes, when it has come."""

    def found() -> list[Span]:
        return [
            span
            for span in list(collector.spans)
            if span.kind == SERVER and attributes.items() <= span.attributes.items()
        ]

    (span,) = eventually(found)
    return span


def test_the_first_request_of_a_model_is_told_in_phases(
    daemon: Daemon, collector: Collector
) -> None:
    body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": PROMPT}]}
    *_, last = daemon.events(
        "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}
    )
    span = request(collector)
    assert (span.name, span.parent, span.service) == (f"chat {MODEL}", "", "the-house")
    assert not span.failed
    usage = last["usage"]
    assert span.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert span.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    phases = collector.children(span)
    queue, prefill, decode = (phases.pop(name) for name in ("queue", "prefill", "decode"))
    assert phases == {}
    load = collector.children(queue)["load"]
    assert span.begin == queue.begin <= load.begin < load.end <= queue.end
    # each phase begins where the one before ended, but for what floats lose of a nanosecond
    for before, after in ((queue, prefill), (prefill, decode)):
        assert abs(after.begin - before.end) < 1000
    assert decode.end <= span.end
    assert {one.trace for one in collector.spans} == {span.trace}


def test_a_request_goes_on_with_its_callers_trace(daemon: Daemon, collector: Collector) -> None:
    daemon.client.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
    for path, body in (
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
        ("/api/v0/completions", {"prompt": "Hi", "max_length": 2}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
    ):
        answer = daemon.client.post(path, json={"model": MODEL, **body})
        assert answer.status_code == 200, answer.text
    for endpoint in ("completions", "v0_completions", "responses"):
        span = request(collector, **{"lemonade.endpoint": endpoint})
        assert (span.trace, span.parent) == (TRACE, PARENT)


def test_errors_refusals_and_clients_that_leave_are_told(
    daemon: Daemon, collector: Collector
) -> None:
    assert daemon.complete("nobody").status_code == 404
    missing = request(collector, **{"error.type": "model_not_found"})
    assert missing.failed
    no_key = {"Authorization": "Bearer wrong"}
    body = {"model": MODEL, "prompt": "Hi"}
    assert daemon.client.post("/v1/completions", json=body, headers=no_key).status_code == 401
    assert request(collector, **{"error.type": "authentication_error"}).failed
    long = {**body, "max_tokens": 1000, "ignore_eos": True, "stream": True}
    with daemon.client.stream("POST", "/v1/completions", json=long) as response:
        next(response.iter_lines())
    left = request(collector, **{"lemonade.outcome": "cancelled"})
    assert not left.failed
    assert left.attributes["gen_ai.usage.output_tokens"] < 1000


def test_a_lost_worker_is_told(daemon: Daemon, collector: Collector) -> None:
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1000, "ignore_eos": True}
    events = daemon.events("/v1/completions", body)
    next(events)
    (worker,) = daemon.workers()
    worker.kill()
    *_, _ = events
    assert request(collector, **{"error.type": "worker_lost"}).failed


def test_no_prompt_no_answer_no_key_and_no_client_is_in_them(
    daemon: Daemon, collector: Collector
) -> None:
    answer = daemon.client.post(
        "/v1/completions",
        json={
            "model": MODEL,
            "prompt": PROMPT,
            "max_tokens": 8,
            "temperature": 0,
            "user": "somebody",
        },
        headers={"X-Client-Id": "a-client"},
    )
    request(collector)
    assert daemon.terminate() == 0
    sent = b"".join(collector.bodies)
    text = answer.json()["choices"][0]["text"]
    assert len(text) > 8
    for secret in (PROMPT, text, KEY, COLLECTORS_KEY, "a-client", "somebody"):
        assert secret.encode() not in sent
    assert COLLECTORS_KEY not in daemon.log_text()
    for headers in collector.headers:
        assert headers["x_api_key"] == COLLECTORS_KEY
        assert headers["authorization"] == f"Bearer {COLLECTORS_KEY}"


def test_what_was_not_sent_yet_is_sent_at_the_end(
    start_daemon: Callable[..., Daemon], collector: Collector
) -> None:
    seldom = {"LEMONADE_TRACING__INTERVAL_S": "3600"}
    daemon = start_daemon(**settings(collector.url) | seldom)
    daemon.client.headers["Authorization"] = f"Bearer {KEY}"
    daemon.use(MODEL, MODEL)
    assert collector.spans == []
    assert daemon.terminate() == 0
    assert len([span for span in collector.spans if span.kind == SERVER]) == 2


def test_a_collector_that_says_nothing_holds_nobody_up(start_daemon: Callable[..., Daemon]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        daemon = start_daemon(
            **settings(url),
            LEMONADE_TRACING__TIMEOUT_S="600",
            LEMONADE_TRACING__MAX_QUEUE_SPANS="4",
        )
        daemon.client.headers["Authorization"] = f"Bearer {KEY}"
        daemon.use(*[MODEL] * 5)
        assert daemon.terminate() == 0
    assert daemon.logged("traces_lost")


def test_a_collector_that_is_not_there_holds_nobody_up(start_daemon: Callable[..., Daemon]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        daemon = start_daemon(**settings(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces"))
        daemon.client.headers["Authorization"] = f"Bearer {KEY}"
        daemon.use(*[MODEL] * 5)
        assert daemon.terminate() == 0
    assert COLLECTORS_KEY not in daemon.log_text()
