"""What every request passes first and last: an id, the gate that closes on drain, who asks, one
log line."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from lemonade_serve import errors
from lemonade_serve.api.clients import ANYBODY, Clients
from lemonade_serve.api.errors import show
from lemonade_serve.domain.completion import Generation
from lemonade_serve.domain.encoding import Encoding
from lemonade_serve.domain.events import RequestRefused
from lemonade_serve.domain.ports import Clock, Observer
from lemonade_serve.domain.readiness import Readiness

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
PROBES = frozenset({"/livez", "/live", "/readyz"})
"""Answered to everybody, while draining too, and not worth a line in the log."""
METRICS = "/metrics"
"""As the probes, but for those with a key, unless it was opened to all."""


_ENDPOINTS = {
    "/v0/completions": "v0_completions",
    "/v0/chat/completions": "chat_completions",
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat_completions",
    "/v0/responses": "responses",
    "/v1/responses": "responses",
    "/v0/embeddings": "embeddings",
    "/v1/embeddings": "embeddings",
    "/v0/rerank": "rerank",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
}
"""Where models are asked for something, less `/api`, as the metrics call it."""


def open_paths(*, open_metrics: bool) -> frozenset[str]:
    """What needs no API key."""
    return PROBES | {METRICS} if open_metrics else PROBES


log = structlog.get_logger()


class Exchange:
    """One request and its answer, as far as the access log wants to know."""

    def __init__(self, request_id: str, arrived: float, traceparent: str = "") -> None:
        self.request_id = request_id
        self.arrived = arrived
        self.traceparent = traceparent
        self.client = ANYBODY
        self.generation: Generation | None = None
        self.encoding: Encoding | None = None
        self.status = 0
        self.error = ""
        """The code of what ended it, also of a stream whose status was already sent."""

    def outcome(self) -> str:
        if self.status in (429, 503):
            return "rejected"
        if self.status == 499:
            return "cancelled"
        if self.error or self.status >= 400 or self.status == 0:
            return "error"
        unfinished = self.generation is not None and self.generation.finish_reason is None
        return "cancelled" if unfinished else "ok"


def exchange_of(scope: Scope) -> Exchange:
    return cast(Exchange, cast("dict[str, Any]", scope)["lemonade.exchange"])


class Access:
    """ASGI middleware around the application. While `readiness` says draining, new requests are
    refused, and connections are closed after their answer."""

    def __init__(
        self,
        app: ASGIApp,
        clients: Clients,
        readiness: Readiness,
        *,
        open_to_all: frozenset[str] = PROBES,
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._app = app
        self._clients = clients
        self._readiness = readiness
        self._open = open_to_all
        self._observer = observer
        self._clock = clock
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self, timeout_s: float) -> bool:
        """True when all running requests are answered in time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(_request_id(scope), self._clock(), _header(scope, b"traceparent")[:128])
        cast("dict[str, Any]", scope)["lemonade.exchange"] = exchange

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *self._labels(scope, exchange)]
            await send(message)

        if scope["path"] in PROBES or scope["path"] == METRICS:
            await self._answer(scope, receive, labelled)
            return
        self.in_flight += 1
        self._idle.clear()
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._answer(scope, receive, labelled)
            finally:
                self.in_flight -= 1
                if not self.in_flight:
                    self._idle.set()
                self._report(scope, exchange)

    def _labels(self, scope: HTTPScope, exchange: Exchange) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", exchange.request_id.encode()
        if self._readiness.draining and scope["http_version"].startswith("1"):
            yield b"connection", b"close"  # the next request is for somebody else

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        try:
            self._admit(scope)
        except errors.LemonadeError as error:
            exchange_of(scope).error = error.code
            self._tell(scope, error)
            await _refuse(error, scope["path"], send)
        else:
            await self._app(scope, receive, send)

    def _admit(self, scope: HTTPScope) -> None:
        """Raises Draining, NotAllowed for a page of another site, and as `Clients.identify`."""
        path = scope["path"]
        if path in PROBES:
            return
        if self._readiness.draining and path != METRICS:
            raise errors.Draining
        if _header(scope, b"sec-fetch-site") == "cross-site":
            raise errors.NotAllowed("a web page of another site may not use this server")
        if path not in self._open:
            exchange_of(scope).client = self._clients.identify(scope["headers"])

    def _tell(self, scope: HTTPScope, error: errors.LemonadeError) -> None:
        """A request of a model that is turned away here is one that no service hears of."""
        endpoint = _ENDPOINTS.get(scope["path"].removeprefix("/api"))
        if self._observer and endpoint:
            refused = RequestRefused.by(
                error,
                model=None,
                endpoint=endpoint,
                duration_s=0.0,
                traceparent=exchange_of(scope).traceparent,
            )
            self._observer.observe(refused)

    def _report(self, scope: HTTPScope, exchange: Exchange) -> None:
        work = exchange.generation or exchange.encoding
        figures = work.figures() if work else {}
        outcome = exchange.outcome()
        code = {"code": exchange.error} if outcome in ("error", "rejected") else {}
        log.info(
            "request_finished",
            method=scope["method"],
            path=scope["path"],
            status=exchange.status,
            outcome=outcome,
            **code,
            client=exchange.client,
            duration_s=round(self._clock() - exchange.arrived, 6),
            **figures,
        )


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is harmless, else a new one."""
    given = _header(scope, b"x-request-id")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"


def _header(scope: Scope, name: bytes) -> str:
    return next((v for k, v in scope["headers"] if k == name), b"").decode("latin-1")


async def _refuse(error: errors.LemonadeError, path: str, send: Send) -> None:
    shown = show(error)
    headers = {"Content-Type": "application/json", **shown.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": shown.status, "headers": encoded})
    body = msgspec.json.encode(shown.body(path))
    await send({"type": "http.response.body", "body": body, "more_body": False})
