"""`lemonade-serve healthcheck`."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from lemonade_serve.cli import options
from lemonade_serve.settings import Server, load_settings

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, asked there, not listened on
"""A daemon that listens on every address is asked on this machine's own."""
_WELL = b'"status"'
"""What a daemon says of itself, and hardly anyone else does."""
_MOST_BYTES = 65536
"""Of an answer: whoever it is that sends it."""


@click.command()
@click.option(
    "--ready/--live",
    default=True,
    show_default=True,
    help="Does it take requests (started, not draining, with a device), or is it alive at all?",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Seconds that the answer may take.",
)
@options.host
@options.port
@click.option("--uds", help="Ask through this Unix socket instead.")
@options.config
def healthcheck(ready: bool, timeout_s: float, config: Path | None, **server: Any) -> None:
    """Ask the daemon of these settings how it is: exit code 0 is well, 1 is not.

    For HEALTHCHECK of a container and the like. It finds the daemon as `serve` is told where to
    listen, by the same settings, and needs no API key.
    """
    where = load_settings(file=config, flags={"server": server}).server
    question = "ready" if ready else "live"
    well, said = ask(where, f"/{question}z", timeout_s)
    click.echo(question if well else f"not {question}: {said}")
    sys.exit(0 if well else 1)


def ask(server: Server, path: str, timeout_s: float) -> tuple[bool, str]:
    """Whether a daemon answers that it is well, and what else is said, within `timeout_s`. To be
    called from the main thread."""
    connection = _Connection(server)
    try:
        with _within(timeout_s):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer from {connection.place}: {_why(error)}"
    finally:
        connection.close()
    if answer.status == 200:
        return _WELL in body, "200, and no lemonade-serve"
    return False, f"{answer.status} {_reason(body)}".strip()


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError then. A socket's own timeout begins anew with each byte."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("timed out")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Connection(http.client.HTTPConnection):
    """To the address or the socket that the daemon listens on."""

    def __init__(self, server: Server) -> None:
        super().__init__(_HERE.get(server.host, server.host), server.port)
        self._path = server.uds
        self.place = f"unix:{server.uds}" if server.uds else f"{self.host} port {self.port}"

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _reason(body: bytes) -> str:
    """On one line, whoever it was that answered."""
    try:
        said = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    return " ".join(said.split())


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
