"""What a `curl` command line sends, by curl's own rules."""

from __future__ import annotations

import argparse
import shlex
from typing import NamedTuple
from urllib.parse import urlsplit

_parser = argparse.ArgumentParser(prog="curl", exit_on_error=False)
_parser.add_argument("url")
_parser.add_argument("-H", "--header", dest="headers", action="append", default=[])
_parser.add_argument("-d", "--data")
_parser.add_argument("-X", "--request", dest="method")


class Request(NamedTuple):
    """`target` is the URL's path and query."""

    method: str
    target: str
    headers: dict[str, str]
    body: str


def read(line: str) -> Request:
    """As a shell would read it, with its line continuations; what has data is a POST."""
    program, *words = shlex.split(line.replace("\\\n", " "))
    assert program == "curl"
    said = _parser.parse_args(words)
    url = urlsplit(said.url)
    return Request(
        method=said.method or ("GET" if said.data is None else "POST"),
        target=url.path + (f"?{url.query}" if url.query else ""),
        headers=dict(header.split(": ", 1) for header in said.headers),
        body=said.data or "",
    )
