"""What every request passes first and last, as plain ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from lemonade_serve.api.access import Access, Exchange, exchange_of, open_paths
from lemonade_serve.api.clients import Clients
from lemonade_serve.domain.completion import Finished, FinishReason, Generation
from lemonade_serve.domain.events import Outcome, RequestRefused
from lemonade_serve.domain.readiness import Readiness
from tests.fakes import FakeClock, RecordingObserver, asynchronous, new_generation

Message = MutableMapping[str, Any]
Act = Callable[[Any], Awaitable[int]]


class Caller:
    """Calls an application of one's own through `Access`, and keeps what came back."""

    def __init__(
        self,
        act: Act | None = None,
        *,
        keys: dict[str, str] | None = None,
        open_metrics: bool = False,
    ) -> None:
        self._act = act or _ok
        self.observer = RecordingObserver()
        self.readiness = Readiness()
        self.access = Access(
            self._app,
            Clients(keys or {}),
            self.readiness,
            open_to_all=open_paths(open_metrics=open_metrics),
            observer=self.observer,
            clock=FakeClock(),
        )
        self.exchanges: list[Exchange] = []
        self.http_version = "1.1"

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.exchanges.append(exchange_of(scope))
        status = await self._act(scope)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def call(self, path: str = "/v1/models", **headers: str) -> Answer:
        sent: list[Message] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "http_version": self.http_version,
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }

        async def send(message: Message) -> None:
            sent.append(message)

        await self.access(scope, _nothing, send)  # type: ignore[arg-type]
        return Answer(sent)


class Answer:
    def __init__(self, sent: list[Message]) -> None:
        self.status = sent[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in sent[1:])


async def _ok(_: Any) -> int:
    return 200


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as captured:
        yield captured


@pytest.mark.parametrize("given", ["mine-1", "a/b:c=d+e.f_g", "x" * 128])
def test_a_callers_request_id_comes_back(given: str) -> None:
    answer = asyncio.run(Caller().call(x_request_id=given))
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "line\nbreak", "é", "<script>"])
def test_a_request_id_that_could_do_harm_is_replaced(given: str) -> None:
    answer = asyncio.run(Caller().call(x_request_id=given))
    assert answer.headers["x-request-id"].startswith("req-")


@asynchronous
async def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    caller = Caller()
    ids = {(await caller.call()).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert ids == {exchange.request_id for exchange in caller.exchanges}


@asynchronous
async def test_a_request_is_in_flight_until_it_is_answered() -> None:
    counts: list[int] = []

    async def act(_: Any) -> int:
        counts.append(caller.access.in_flight)
        return 200

    caller = Caller(act)
    await caller.call()
    assert (counts, caller.access.in_flight) == ([1], 0)


@asynchronous
async def test_a_request_that_raises_is_not_in_flight_any_more(
    lines: list[MutableMapping[str, Any]],
) -> None:
    async def act(_: Any) -> int:
        raise RuntimeError

    caller = Caller(act)
    with pytest.raises(RuntimeError):
        await caller.call()
    assert caller.access.in_flight == 0
    assert await caller.access.idle(0.001)
    (line,) = lines
    assert (line["status"], line["outcome"]) == (0, "error")


@asynchronous
async def test_draining_waits_for_what_runs() -> None:
    finish = asyncio.Event()

    async def act(_: Any) -> int:
        await finish.wait()
        return 200

    caller = Caller(act)
    running = asyncio.create_task(caller.call())
    await asyncio.sleep(0)
    assert not await caller.access.idle(0.001)
    draining = asyncio.create_task(caller.access.idle(60))
    finish.set()
    assert await draining
    assert (await running).status == 200


@asynchronous
async def test_draining_an_idle_one_is_over_at_once() -> None:
    assert await Caller().access.idle(60)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v0/completions", {"status": "error", "code": "draining"}),
        ("/v1/completions", {"type": "overloaded", "code": "draining"}),
        ("/api/v0/chat/completions", {"type": "overloaded", "code": "draining"}),
    ],
)
def test_while_draining_new_requests_are_refused_in_their_dialect(
    path: str, body: dict[str, str], lines: list[MutableMapping[str, Any]]
) -> None:
    async def ask() -> None:
        caller = Caller()
        caller.readiness.draining = True
        answer = await caller.call(path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        said = json.loads(answer.body)
        assert body.items() <= (said.get("error") or said).items()
        assert caller.exchanges == []

    asyncio.run(ask())
    (line,) = lines
    assert (line["status"], line["outcome"]) == (503, "rejected")


@pytest.mark.parametrize(
    ("http_version", "draining", "said"),
    [("1.1", False, None), ("1.1", True, "close"), ("2", True, None)],
)
@asynchronous
async def test_while_draining_a_connection_ends_with_its_answer(
    http_version: str, draining: bool, said: str | None
) -> None:
    caller = Caller()
    caller.readiness.draining, caller.http_version = draining, http_version
    for path in ("/v1/models", "/metrics"):
        assert (await caller.call(path)).headers.get("connection") == said


@pytest.mark.parametrize("path", ["/livez", "/live", "/readyz"])
def test_probes_are_answered_while_draining_and_leave_no_line(
    path: str, lines: list[MutableMapping[str, Any]]
) -> None:
    async def ask() -> None:
        caller = Caller()
        caller.readiness.draining = True
        assert (await caller.call(path)).status == 200

    asyncio.run(ask())
    assert lines == []


KEYS = {"alice": "key of alice", "bob": "key of bob"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v0/completions", {"status": "error", "code": "authentication_error"}),
        ("/v1/completions", {"type": "authentication_error", "code": "authentication_error"}),
        ("/schema", {"type": "authentication_error"}),
        ("/metrics", {"type": "authentication_error"}),
        ("/nothing", {"type": "authentication_error"}),
    ],
)
def test_without_a_key_everything_is_refused_in_its_dialect(
    path: str, body: dict[str, str]
) -> None:
    caller = Caller(keys=KEYS)
    answer = asyncio.run(caller.call(path))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    said = json.loads(answer.body)
    assert body.items() <= (said.get("error") or said).items()
    assert caller.exchanges == []


@pytest.mark.parametrize("path", ["/livez", "/live", "/readyz"])
def test_probes_need_no_key(path: str) -> None:
    assert asyncio.run(Caller(keys=KEYS).call(path)).status == 200


@pytest.mark.parametrize(("open_metrics", "status"), [(False, 401), (True, 200)])
def test_metrics_need_a_key_unless_they_are_open(open_metrics: bool, status: int) -> None:
    caller = Caller(keys=KEYS, open_metrics=open_metrics)
    assert asyncio.run(caller.call("/metrics")).status == status


def test_metrics_are_answered_while_draining_and_leave_no_line(
    lines: list[MutableMapping[str, Any]],
) -> None:
    async def ask() -> None:
        caller = Caller(keys=KEYS)
        caller.readiness.draining = True
        answer = await caller.call("/metrics", authorization="Bearer key of bob")
        assert answer.status == 200

    asyncio.run(ask())
    assert lines == []


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_a_page_of_another_site_is_refused_whoever_asks(path: str) -> None:
    headers = {"authorization": "Bearer key of bob", "sec_fetch_site": "cross-site"}
    assert asyncio.run(Caller(keys=KEYS).call(path, **headers)).status == 403


def test_a_request_carries_its_client_into_the_application_and_the_log(
    lines: list[MutableMapping[str, Any]],
) -> None:
    caller = Caller(keys=KEYS)
    asyncio.run(caller.call(authorization="Bearer key of bob", x_client_id="phone"))
    assert [exchange.client for exchange in caller.exchanges] == ["bob/phone"]
    assert [line["client"] for line in lines] == ["bob/phone"]
    assert "key of" not in str(lines)


def test_a_client_id_that_cannot_be_one_is_named(lines: list[MutableMapping[str, Any]]) -> None:
    answer = asyncio.run(Caller().call("/api/v0/params", x_client_id="a/b"))
    assert answer.status == 400
    assert "X-Client-Id" in json.loads(answer.body)["message"]


@asynchronous
async def test_what_is_not_http_passes_by() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    access = Access(app, Clients({}), Readiness(), clock=FakeClock())
    await access({"type": "lifespan"}, _nothing, _nothing)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_a_request_is_one_line_with_its_id_and_its_time(
    lines: list[MutableMapping[str, Any]],
) -> None:
    asyncio.run(Caller().call("/v1/models", x_request_id="mine"))
    assert lines == [
        {
            "event": "request_finished",
            "log_level": "info",
            "request_id": "mine",
            "method": "GET",
            "path": "/v1/models",
            "status": 200,
            "outcome": "ok",
            "client": "default",
            "duration_s": 1.0,
        }
    ]


def test_the_line_of_one_that_is_turned_away_has_the_code(
    lines: list[MutableMapping[str, Any]],
) -> None:
    asyncio.run(Caller().call("/v1/models", sec_fetch_site="cross-site"))
    (line,) = lines
    assert (line["status"], line["outcome"], line["code"]) == (403, "error", "permission_error")


def test_lines_of_the_request_itself_carry_its_id(lines: list[MutableMapping[str, Any]]) -> None:
    async def act(_: Any) -> int:
        structlog.get_logger().info("something_happened")
        return 200

    asyncio.run(Caller(act).call(x_request_id="mine"))
    assert [line["request_id"] for line in lines] == ["mine", "mine"]
    assert structlog.contextvars.get_contextvars() == {}


def test_a_generations_figures_are_in_the_line(lines: list[MutableMapping[str, Any]]) -> None:
    generation = _generation(finished=True)

    async def act(scope: Any) -> int:
        exchange_of(scope).generation = generation
        return 200

    asyncio.run(Caller(act).call())
    (line,) = lines
    assert (line["model"], line["finish_reason"], line["outcome"]) == ("small", "stop", "ok")


@pytest.mark.parametrize(
    ("status", "failed", "generation", "outcome"),
    [
        (200, False, None, "ok"),
        (200, False, True, "ok"),
        (200, False, False, "cancelled"),
        (200, True, False, "error"),
        (499, False, False, "cancelled"),
        (400, False, None, "error"),
        (404, False, None, "error"),
        (500, False, False, "error"),
        (0, False, None, "error"),
        (429, False, None, "rejected"),
        (503, False, None, "rejected"),
    ],
)
def test_the_outcome_is_one_word(
    status: int, failed: bool, generation: bool | None, outcome: str
) -> None:
    exchange = Exchange("id", 0.0)
    exchange.status, exchange.error = status, "worker_lost" if failed else ""
    exchange.generation = None if generation is None else _generation(finished=generation)
    assert exchange.outcome() == outcome


def _generation(*, finished: bool) -> Generation:
    generation = new_generation()
    if finished:
        generation.take(Finished(1, "", FinishReason.STOP))
    return generation


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/api/v0/completions", "v0_completions"),
        ("/api/v0/chat/completions", "chat_completions"),
        ("/v1/completions", "completions"),
        ("/api/v1/chat/completions", "chat_completions"),
    ],
)
@asynchronous
async def test_a_generation_that_is_turned_away_at_the_gate_is_told(
    path: str, endpoint: str
) -> None:
    caller = Caller(keys={"ann": "secret"})
    await caller.call(path)
    caller.readiness.draining = True
    await caller.call(path)
    unknown, draining = caller.observer.events
    assert unknown == RequestRefused(
        model=None, endpoint=endpoint, outcome=Outcome.ERROR, reason="authentication_error"
    )
    assert draining == RequestRefused(
        model=None, endpoint=endpoint, outcome=Outcome.REJECTED, reason="draining"
    )


@asynchronous
async def test_what_else_is_turned_away_is_no_generation() -> None:
    caller = Caller(keys={"ann": "secret"})
    await caller.call("/api/v0/health")
    assert caller.observer.events == []
