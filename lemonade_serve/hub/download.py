"""Files from elsewhere: streamed to disk, with their digests checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx

from lemonade_serve.errors import DiskFull, JobFailed

Progress = Callable[[str, float], None]
"""Gets what is done now, and which share of it is done already."""
_TIMEOUT_S = 60.0
"""A server may be silent for so long."""
_CHUNK_BYTES = 1 << 20


def open_client() -> httpx.Client:
    """Proxies and certificates are those of the environment (HTTPS_PROXY, SSL_CERT_FILE, ...)."""
    return httpx.Client(follow_redirects=True, timeout=_TIMEOUT_S)


def download(client: httpx.Client, url: str, to: Path, sha256: str, progress: Progress) -> None:
    """Write to `to` what is at `url`. `sha256` in hexadecimal digits; empty: it is not known.

    Raises DiskFull, and JobFailed, which names the address without what may be secret in it.
    """
    digest = hashlib.sha256()
    try:
        with client.stream("GET", url) as response, to.open("wb") as file:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0))
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                done = response.num_bytes_downloaded
                progress("downloading", min(1.0, done / total) if total else 0.0)
    except OSError as error:
        raise DiskFull.by(error, to.parent) or failed(url, error) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise failed(url, error) from error
    if sha256 and digest.hexdigest() != sha256:
        raise JobFailed(
            f"{public(url)} is not what was expected: its SHA-256 is {digest.hexdigest()}, and "
            f"should be {sha256}"
        )


def failed(url: str, error: Exception) -> JobFailed:
    """What to say of an address that did not give what it was asked for."""
    if isinstance(error, httpx.HTTPStatusError):
        reason = f"{error.response.status_code} {error.response.reason_phrase}"
    else:
        reason = str(error) or type(error).__name__
    return JobFailed(
        f"could not download {public(url)}: {reason}. Can this machine reach it? Proxies and "
        "certificates come from the environment: HTTPS_PROXY, SSL_CERT_FILE"
    )


def public(url: str) -> str:
    """Without user, password and query, which may be secrets."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "this address"
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
