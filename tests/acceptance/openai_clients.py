"""The `openai` package's own clients of a daemon, over its Unix socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import openai

from tests.daemon import Daemon

KEY = "a-key"
HOW: dict[str, Any] = {"base_url": "http://daemon/v1", "api_key": "any", "max_retries": 0}


@contextmanager
def client_of(daemon: Daemon, **how: Any) -> Iterator[openai.OpenAI]:
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with httpx.Client(transport=transport) as http:
        yield openai.OpenAI(**{**HOW, **how}, http_client=http)  # type: ignore[arg-type]


@asynccontextmanager
async def async_client_of(daemon: Daemon, **how: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    async with httpx.AsyncClient(transport=transport) as http:
        yield openai.AsyncOpenAI(**{**HOW, **how}, http_client=http)  # type: ignore[arg-type]


def free_port() -> int:
    """One that nobody listens on now, for programs that know no Unix sockets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
