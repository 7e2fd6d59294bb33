"""A Python package index, asked without an installer: its simple API, as JSON or as a page."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser

import httpx
import msgspec

from lemonade_serve.errors import JobFailed
from lemonade_serve.hub.download import failed, public

_DEFAULT = "https://pypi.org/simple"
_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


class _File(msgspec.Struct):
    url: str
    hashes: dict[str, str] = {}


class _Project(msgspec.Struct):
    files: list[_File]


def index_url(environment: Mapping[str, str]) -> str:
    """The index that installers use here, as far as variables say so; else PyPI."""
    said = (environment[name] for name in _VARIABLES if environment.get(name))
    return next(said, _DEFAULT)


def find_file(client: httpx.Client, index: str, package: str, sha256: str) -> str:
    """The address of the package's file with that digest. Raises JobFailed."""
    page = f"{index.rstrip('/')}/{package}/"
    try:
        response = client.get(page, headers={"Accept": _ACCEPT}).raise_for_status()
        files = _read(response)
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError, OSError) as error:
        raise failed(page, error) from error
    for file in files:
        if file.hashes.get("sha256") == sha256:
            return str(response.url.join(file.url))
    raise JobFailed(
        f"{public(page)} has no file with the SHA-256 {sha256}. PIP_INDEX_URL names another index"
    )


def _read(response: httpx.Response) -> list[_File]:
    if response.headers.get("Content-Type", "").startswith(_JSON):
        return msgspec.json.decode(response.content, type=_Project).files
    links = _Links()
    links.feed(response.text)
    return links.files


class _Links(HTMLParser):
    """The files of a page; a digest stands behind the `#` of its link."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[_File] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (link := dict(attrs).get("href")):
            url, _, fragment = link.partition("#")
            kind, _, digest = fragment.partition("=")
            self.files.append(_File(url=url, hashes={kind: digest}))
