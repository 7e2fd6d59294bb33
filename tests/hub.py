"""A hub: a real HTTP server with the routes that a pull uses, and a CDN on a port of its own.

It behaves as the Hugging Face hub does where that matters: large files are redirected to the CDN,
which takes ranges and refuses the hub's tokens; both can be told to fail.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

TOKEN = "hf_of_somebody"  # noqa: S105, nobody
_LARGE = (".onnx", ".data", ".gguf", ".bin")
"""What the hub keeps in its large file storage."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `server` is `hub` or `cdn`."""

    server: str
    method: str
    path: str
    range: str | None
    token: str | None


class Fault(msgspec.Struct, kw_only=True):
    """What becomes of the next request for a file, instead of an answer: a `status`, or only so
    many bytes of what was asked for (`cut_after`), and then the end of the connection, once
    `until` is set. By itself it is none."""

    status: int = 0
    headers: dict[str, str] = {}
    cut_after: int = -1
    until: Any = None


class Repository(msgspec.Struct, kw_only=True):
    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    listed: bool = False
    """Gated, but what there is may be seen."""
    license: str = "apache-2.0"

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


class Hub:
    """`url` is for HF_ENDPOINT. `faults` befall the requests for files that come next."""

    def __init__(self) -> None:
        self.url = self.cdn_url = ""
        self.repositories: dict[str, Repository] = {}
        self.revisions: dict[tuple[str, str], Repository] = {}
        """Further ones, by name and revision."""
        self.moved: dict[str, str] = {}
        """What repositories were called once, and are now."""
        self.error_body = b""
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.listing_faults: list[Fault] = []
        self.sent = threading.Semaphore(0)
        """Released when a cut answer's bytes are out."""
        self.ranges = True
        self.lie: dict[str, bytes] = {}
        """What is sent instead, by path."""

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> Repository:
        self.repositories[name] = repository = Repository(files=files, **more)
        return repository

    def downloads(self) -> list[Asked]:
        """The requests for the contents of files."""
        return [
            asked
            for asked in self.asked
            if asked.method == "GET"
            and (asked.server == "cdn" or "/resolve/" in asked.path)
            and not (asked.server == "hub" and asked.path.endswith(_LARGE))
        ]

    def find(self, name: str, revision: str) -> Repository | None:
        repository = self.repositories.get(name)
        if (name, revision) in self.revisions:
            return self.revisions[name, revision]
        of_name = [repository, *(r for (n, _), r in self.revisions.items() if n == name)]
        for one in of_name:
            if one and revision == one.commit:
                return one
        return repository if revision == "main" else None


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    with ExitStack() as servers:
        hub.url = servers.enter_context(_served(hub, "hub"))
        hub.cdn_url = servers.enter_context(_served(hub, "cdn"))
        yield hub


@contextmanager
def _served(hub: Hub, server: str) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub, "server_name": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    server_name: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(
            Asked(
                server=self.server_name,
                method=self.command,
                path=path,
                range=self.headers.get("Range"),
                token=self.headers.get("Authorization"),
            )
        )
        if self.server_name == "cdn":
            self._cdn(path.removeprefix("/"))
        elif path.startswith("/api/models/"):
            self._listing(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            self._resolve(name, revision, file)
        else:
            self._say(404, b"")

    do_HEAD = do_GET

    def _listing(self, path: str) -> None:
        name, tree, revision = path.partition("/tree/")
        if not tree:
            name, _, revision = path.partition("/revision/")
        if self.hub.listing_faults:
            fault = self.hub.listing_faults.pop(0)
            self._say(fault.status, b"", fault.headers)
            return
        repository = self._allowed(name, revision, listing=True)
        if repository is None:
            return
        if tree:
            entries = [_entry(path, content) for path, content in repository.files.items()]
            self._say(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            return
        siblings = [_sibling(path, content) for path, content in repository.files.items()]
        body = {
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "tags": [f"license:{repository.license}"],
            "siblings": siblings,
        }
        if config := _config(repository.files.get("config.json", b"{}")):
            body["config"] = config
        self._say(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _allowed(self, name: str, revision: str, *, listing: bool = False) -> Repository | None:
        if name in self.hub.moved:
            self._say(307, b"", {"Location": self.path.replace(name, self.hub.moved[name], 1)})
            return None
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self._say(401, self.hub.error_body, {"X-Error-Code": "RepoNotFound"})
        elif repository.gated and not known and not (listing and repository.listed):
            self._say(403, b"", {"X-Error-Code": "GatedRepo"})
        elif (found := self.hub.find(name, revision)) is None:
            self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return found
        return None

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._allowed(name, revision)
        if repository is None:
            return
        content = repository.files.get(path)
        if content is None:
            self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": repository.commit}
        if path.endswith(_LARGE):
            digest = hashlib.sha256(content).hexdigest()
            linked = {
                "X-Linked-ETag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.hub.cdn_url}/{name}/{path}?signature=x",
            }
            self._say(302, b"", {**headers, **linked})
        else:
            self._content(path, content, {**headers, "ETag": f'"{_git(content)}"'})

    def _cdn(self, path: str) -> None:
        if self.headers.get("Authorization"):
            self._say(400, b"only one auth mechanism allowed")
            return
        for name, repository in [
            *self.hub.repositories.items(),
            *((name, one) for (name, _), one in self.hub.revisions.items()),
        ]:
            file = path.removeprefix(f"{name}/")
            if file != path and file in repository.files:
                self._content(file, repository.files[file], {})
                return
        self._say(404, b"")

    def _content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        fault = self.hub.faults.pop(0) if self.hub.faults else Fault()
        if fault.status:
            self._say(fault.status, b"", fault.headers)
            return
        content = self.hub.lie.get(path, content)
        status, said = 200, self.headers.get("Range", "")
        if self.hub.ranges and said.startswith("bytes="):
            begin = int(said.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[begin:]
        self._say(status, content, headers, cut_after=fault.cut_after, until=fault.until)

    def _say(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        cut_after: int = -1,
        until: threading.Event | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(content if cut_after < 0 else content[:cut_after])
            self.wfile.flush()
        except OSError:
            self.close_connection = True
        if cut_after >= 0:
            self.hub.sent.release()
            if until:
                until.wait()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def _config(content: bytes) -> dict[str, Any]:
    """What the hub tells of it, if it is one."""
    try:
        known = json.loads(content)
    except ValueError:
        return {}
    return {name: known[name] for name in ("architectures", "model_type") if name in known}


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """As the hub's own library asks for it."""
    file = _sibling(path, content)
    entry = {"type": "file", "path": path, "size": len(content), "oid": file["blobId"]}
    if lfs := file.get("lfs"):
        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 130}
    return entry


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    file: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": _git(content)}
    if path.endswith(_LARGE):
        digest = hashlib.sha256(content).hexdigest()
        file["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return file
