"""Asking a daemon over HTTP, as any client would."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec

from lemonade_serve.errors import LemonadeError, WorkerLost

_CONNECT_TIMEOUT_S = 5.0
_SILENCE_TIMEOUT_S = 60.0
"""The daemon sends a comment every few seconds while it loads or computes."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What one event of a stream brought: some text, or at the end the usage."""

    text: str = ""
    completion_tokens: int | None = None


class Figures:
    """Times of one stream by the client's own clock, in seconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._began
        self.completion_tokens = 0

    def saw(self, piece: Piece) -> None:
        if piece.text:
            self._last = time.perf_counter()
            self._first = self._first or self._last
        self.completion_tokens = piece.completion_tokens or self.completion_tokens

    def line(self) -> str:
        """For people."""
        if self._first is None:
            return "no text"
        seconds = self._last - self._first
        speed = (self.completion_tokens - 1) / seconds if seconds > 0 else 0.0
        return (
            f"time to first token {self._first - self._began:.3f} s, "
            f"{speed:.1f} tokens/s, {self.completion_tokens} tokens"
        )


async def ask(base_url: str, path: str, body: dict[str, Any]) -> AsyncGenerator[Piece]:
    """Stream an OpenAI completion from `base_url` + `path`. Raises LemonadeError with what the
    daemon said, or with what to do when there is none."""
    wanted = {**body, "stream": True, "stream_options": {"include_usage": True}}
    timeout = httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    try:
        async with (
            httpx.AsyncClient(
                base_url=base_url, timeout=timeout, trust_env=not _is_loopback(base_url)
            ) as client,
            client.stream("POST", path, json=wanted) as response,
        ):
            if response.status_code != 200:
                raise LemonadeError(_message(await response.aread()))
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield _piece(json.loads(line.removeprefix("data: ")))
    except httpx.ConnectError as error:
        raise LemonadeError(
            f"no daemon answers at {base_url}: start one with `lemonade-serve serve`, "
            "or name it with --url"
        ) from error
    except httpx.TransportError as error:
        raise LemonadeError(f"the daemon at {base_url} did not finish: {error!r}") from error


def _is_loopback(base_url: str) -> bool:
    """A proxy of the environment is not for this machine."""
    return httpx.URL(base_url).host in ("127.0.0.1", "localhost", "::1")


def _piece(event: dict[str, Any]) -> Piece:
    if "error" in event:
        raise WorkerLost(event["error"]["message"])
    if usage := event.get("usage"):
        return Piece(completion_tokens=usage["completion_tokens"])
    choice = event["choices"][0]
    text = choice["delta"].get("content") if "delta" in choice else choice["text"]
    return Piece(text=text or "")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace") or "the daemon gave no reason"
