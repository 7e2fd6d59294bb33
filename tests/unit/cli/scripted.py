"""A daemon that says what it is told to: a real HTTP server, that notes what it was asked."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request; `body` is None when there was none, `headers` are in lower case."""

    method: str
    path: str
    query: dict[str, str] = {}
    body: Any = None
    headers: dict[str, str] = {}

    def what(self) -> tuple[str, str, Any]:
        """Without its headers."""
        return self.method, self.path, self.query or self.body


class ScriptedDaemon:
    """Answers every request with `status`, `headers` and `body` (JSON, or text as it is)."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.body: Any = {}
        self.cut = False
        """Close the connection in mid-answer."""
        self.silent: threading.Event | None = None
        """Do not answer before this."""
        self.asked: list[Asked] = []

    def only(self) -> Asked:
        (asked,) = self.asked
        return asked

    def handler(self) -> type[BaseHTTPRequestHandler]:
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                daemon.asked.append(_asked(self))
                if daemon.silent:
                    daemon.silent.wait()
                text = daemon.body if isinstance(daemon.body, str) else json.dumps(daemon.body)
                content = text.encode()
                self.send_response(daemon.status)
                for name, value in daemon.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) + daemon.cut))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        return Handler


@contextmanager
def scripted(socket: Path | None = None) -> Iterator[ScriptedDaemon]:
    """On TCP, or on `socket`."""
    daemon = ScriptedDaemon()
    server: socketserver.BaseServer
    if socket:
        server = socketserver.ThreadingUnixStreamServer(str(socket), daemon.handler())
        daemon.url = f"unix:{socket}"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), daemon.handler())
        daemon.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield daemon
    finally:
        if daemon.silent:
            daemon.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _asked(request: BaseHTTPRequestHandler) -> Asked:
    url = urlsplit(request.path)
    content = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    return Asked(
        method=request.command,
        path=url.path,
        query=dict(parse_qsl(url.query)),
        body=json.loads(content) if content else None,
        headers={name.lower(): value for name, value in request.headers.items()},
    )
