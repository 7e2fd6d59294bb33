"""A web server on loopback, with what a test puts there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Page(NamedTuple):
    """`cut`: the connection ends before the content does."""

    content: bytes
    content_type: str = "application/octet-stream"
    status: int = 200
    cut: bool = False


class Site(NamedTuple):
    """`asked` gets the path and the Accept header of each request."""

    url: str
    asked: list[tuple[str, str]]


@contextmanager
def serving(pages: Mapping[str, Page]) -> Iterator[Site]:
    """Anything else is a 404."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Accept"]))
            page = pages.get(self.path.partition("?")[0], Page(b"", status=404))
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.content) + page.cut))
            self.end_headers()
            self.wfile.write(page.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
