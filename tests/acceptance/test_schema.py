"""What `/schema` says against what a real daemon does, by requests that nobody thought of."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from requests.adapters import HTTPAdapter
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from tests import checkpoints, encoders, hub
from tests.daemon import MODEL, Daemon

KEY = "a-testers-key"
PARAMS = "/api/v0/params"
CONTEXT = 34
CONFIG = {
    "seed": 1,
    "base-url": "http://daemon",
    "headers": {"Authorization": f"Bearer {KEY}"},
    "cache": {"enabled": False},
    "generation": {"max-examples": 5, "deterministic": True},
    "phases": {"stateful": {"enabled": False}},  # no answer leads to another request
    "checks": {
        # What is right by its schema may name a device, a dtype or a model that is not here, and
        # a prompt may be longer than its model's context.
        "positive_data_acceptance": {"enabled": False},
    },
    # The same handlers as under /v1: what their schemas say need not be worked out again.
    "operations": [
        {"include-path-regex": path, "phases": {"coverage": {"enabled": False}}}
        for path in ("^/api/v1/", "^/api/v0/(chat/|embeddings|rerank)", "^/v2/")
    ],
}


class UnixConnection(HTTPConnection):
    """To a Unix socket, whatever the URL says."""

    def __init__(self, path: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class UnixAdapter(HTTPAdapter):
    """requests, over a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        class Pool(HTTPConnectionPool):
            ConnectionCls = functools.partial(UnixConnection, self._path)  # type: ignore[assignment]

        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool}


@pytest.fixture
def keyed_daemon(cache_dir: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that asks for a key, and whose answers are short whatever was asked for."""
    source = checkpoints.original(cache_dir)
    short = checkpoints.config(source, context_length=CONTEXT)
    checkpoints.link(source, tmp_path / "cache" / MODEL / "int8", short)
    encoders.put(tmp_path / "cache" / "all-MiniLM-L6-v2")  # as the examples call them
    encoders.put(tmp_path / "cache" / "ms-marco-MiniLM-L6-v2", labels=1)
    settings = {
        "LEMONADE_CACHE_DIR": str(tmp_path / "cache"),
        "LEMONADE_STATE_DIR": str(tmp_path / "state"),
        "LEMONADE_API_KEYS__TESTER": KEY,
        "LEMONADE_PARAMETERS__MAX_LENGTH": "1",
        "LEMONADE_WORKER__THREADS": "1",
    }
    with hub.running() as empty:
        daemon = Daemon.start(tmp_path, {**settings, "HF_ENDPOINT": empty.url})
        yield daemon
        daemon.kill()


def test_the_daemon_does_what_its_description_says(
    keyed_daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(UnixAdapter(keyed_daemon.socket)) as adapter:
        monkeypatch.setattr(requests.Session, "get_adapter", lambda *_, **__: adapter)
        document = keyed_daemon.client.get("/schema/openapi.json", headers=CONFIG["headers"]).json()
        # What a client keeps makes its later answers longer, so that comes last.
        run = [*try_paths(document, but=PARAMS), *try_paths(document, only=PARAMS)]
    broken = [e for e in run if isinstance(e, events.NonFatalError | events.FatalError)]
    assert not broken, broken
    scenarios = [event for event in run if isinstance(event, events.ScenarioFinished)]
    wrong = [failure for scenario in scenarios for failure in failures(scenario)]
    assert not wrong, "\n\n".join(wrong)
    assert {scenario.label for scenario in scenarios if scenario.status is Status.SUCCESS} == {
        f"{verb.upper()} {path}" for path, item in document["paths"].items() for verb in item
    }
    assert keyed_daemon.process.poll() is None


def try_paths(
    document: dict[str, Any], *, only: str | None = None, but: str | None = None
) -> Iterator[events.EngineEvent]:
    paths = document["paths"].items()
    some = {p: item for p, item in paths if only in (None, p) and p != but}
    config = SchemathesisConfig.from_dict(CONFIG)
    described = schemathesis.openapi.from_dict({**document, "paths": some}, config=config)
    yield from from_schema(described).execute()


def failures(scenario: events.ScenarioFinished) -> Iterator[str]:
    """What was found, with the request that found it."""
    recorder = scenario.recorder
    for case, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info:
                sent = recorder.interactions[case].request
                yield f"{check.name}: {check.failure_info.failure}\n{sent.method} {sent.uri}"
