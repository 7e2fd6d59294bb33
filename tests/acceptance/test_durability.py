"""What a daemon keeps for its clients, whatever happens to it.

SQLite in WAL mode with `synchronous=FULL`: a write is fsynced before it is acknowledged. A killed
process shows that no acknowledged write waits in the daemon; only a power cut could show the fsync.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon import MODEL, Daemon
from tests.postgres import Postgres

StartDaemon = Callable[..., Daemon]
PARAMS = "/api/v0/params"
SCOPES: list[dict[str, str]] = [{}, {"model": MODEL}]
"""Number n is written to SCOPES[n % 2]: a client's own for all models, or for one."""
WORDS = {"model": MODEL, "prompt": "Once upon a time"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", PARAMS, {"max_length": 1}),
    ("GET", PARAMS, None),
    ("POST", "/api/v0/completions", WORDS),
    ("POST", "/api/v0/completions", {**WORDS, "stream": True}),
    ("POST", "/v1/completions", WORDS),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("DELETE", PARAMS, None),
]
"""All that needs the store."""
UNAVAILABLE = "store_unavailable"
PASSWORD = "sesame"  # noqa: S105


def numbered(number: int) -> dict[str, Any]:
    """More than a page of the database, all of which says the number."""
    return {"seed": number, "max_length": number + 1, "stop": [f"{number:256}"] * 16}


def own(client: str) -> dict[str, str]:
    return {"X-Client-Id": client}


class Writer:
    """Client A, writing numbers in a thread, over one connection, until that is gone."""

    def __init__(self, daemon: Daemon, first: int) -> None:
        self.acknowledged = first - 1
        self.ended = threading.Event()
        self._refusals: list[int] = []
        self._told = threading.Condition()
        self._thread = threading.Thread(target=self._write, args=(daemon.socket, first))
        self._thread.start()

    def wait_for(self, number: int) -> None:
        """Until it is acknowledged."""
        with self._told:
            self._told.wait_for(lambda: self.acknowledged >= number or self.ended.is_set(), 60)
            assert self.acknowledged >= number

    def join(self) -> int:
        """The last number that was acknowledged."""
        self._thread.join(60)
        assert self.ended.is_set()
        assert self._refusals == []
        return self.acknowledged

    def _write(self, where: Path, first: int) -> None:
        with closing(http.client.HTTPConnection("daemon")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(where))
            connection.auto_open = 0  # never another one
            with suppress(OSError, http.client.HTTPException):
                for number in itertools.count(first):
                    self._put(connection, number)
        with self._told:
            self.ended.set()
            self._told.notify()

    def _put(self, connection: http.client.HTTPConnection, number: int) -> None:
        body = json.dumps({**SCOPES[number % 2], **numbered(number)})
        connection.request("POST", PARAMS, body, own("A"))
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            self._refusals.append(answer.status)
        with self._told:
            self.acknowledged = number
            self._told.notify()


def show(daemon: Daemon, client: str, scope: dict[str, str]) -> dict[str, Any]:
    """What is in force for a client, and where each value came from."""
    answer = daemon.client.get(PARAMS, params=scope, headers=own(client))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def kept_numbers(daemon: Daemon) -> list[int]:
    """The number in each of client A's scopes, where there is one; each is there whole."""
    numbers = []
    for scope, source in zip(SCOPES, ("client", "model"), strict=True):
        shown = show(daemon, "A", scope)
        if shown["sources"]["seed"] != source:
            continue
        number = shown["params"]["seed"]
        wanted = numbered(number)
        assert {name: shown["params"][name] for name in wanted} == wanted
        assert {shown["sources"][name] for name in wanted} == {source}
        numbers.append(number)
    return sorted(numbers)


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.system)])
def test_no_acknowledged_write_is_lost_or_halved_when_the_daemon_is_killed(
    start_daemon: StartDaemon, kills: int
) -> None:
    chance = random.Random(kills)  # noqa: S311
    daemon = start_daemon()
    mine = {"temperature": 0.25, "seed": 7, "stop": ["B's own"]}
    assert daemon.client.post(PARAMS, json=mine, headers=own("B")).status_code == 200
    of_b = [show(daemon, "B", scope) for scope in SCOPES]
    assert mine.items() <= of_b[0]["params"].items()
    last = 0
    for _ in range(kills):
        writer = Writer(daemon, last + 1)
        writer.wait_for(last + chance.randrange(1, 8))
        writer.ended.wait(chance.uniform(0, 0.01))
        daemon.process.kill()
        acknowledged = writer.join()
        assert acknowledged > last
        daemon.kill()
        daemon = start_daemon()
        kept = kept_numbers(daemon)
        last = max(kept)
        assert last in (acknowledged, acknowledged + 1)
        assert kept == [number for number in (last - 1, last) if number > 0]
        assert [show(daemon, "B", scope) for scope in SCOPES] == of_b


def serve(directory: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`lemonade-serve serve`, of which it is expected that it says why it will not."""
    command = [sys.executable, "-m", "lemonade_serve", "serve", *options]
    return subprocess.run(
        [*command, "--uds", str(directory / "second.sock"), "--cache-dir", str(directory)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_two_daemons_do_not_share_a_state_directory(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    first = start_daemon()
    second = serve(tmp_path, "--state-dir", str(tmp_path / "state"))
    assert second.returncode == 1
    *_, line = second.stderr.splitlines()
    assert f"another daemon (pid {first.process.pid}) uses {tmp_path / 'state'}" in line
    assert "--state-dir" in line
    assert first.client.get("/livez").status_code == 200


def test_a_killed_daemon_leaves_its_state_directory_free(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    killed = start_daemon()
    killed.kill()
    assert (tmp_path / "state" / "lock").read_text() == f"{killed.process.pid}\n"
    start_daemon()
    assert serve(tmp_path, "--state-dir", str(tmp_path / "state")).returncode == 1


def test_a_daemon_does_not_touch_a_database_of_a_newer_one(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    start_daemon().terminate()
    database = tmp_path / "state" / "lemonade.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE lemonade_schema SET version_num = '9999'")
        connection.commit()
    refused = serve(tmp_path, "--state-dir", str(tmp_path / "state"))
    assert refused.returncode == 1
    *_, line = refused.stderr.splitlines()
    assert f"{database} was made by a newer lemonade-serve; upgrade" in line
    with closing(sqlite3.connect(database)) as connection:
        kept = connection.execute("SELECT version_num FROM lemonade_schema").fetchall()
    assert kept == [("9999",)]


@pytest.mark.system
class TestTwoDaemonsOnOnePostgresql:
    @pytest.fixture
    def daemons(
        self, start_daemon: StartDaemon, postgres: Postgres, tmp_path: Path
    ) -> list[Daemon]:
        url = postgres.new_schema(password=PASSWORD)
        started = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            started.append(start_daemon(tmp_path / name, LEMONADE_DATABASE_URL=url))
        return started

    def test_what_one_writes_the_other_serves_at_the_next_request(
        self, daemons: list[Daemon]
    ) -> None:
        for number in range(10):
            writing, reading = daemons if number % 2 else reversed(daemons)
            body = {**SCOPES[number % 4 // 2], **numbered(number)}
            assert writing.client.post(PARAMS, json=body, headers=own("A")).status_code == 200
            assert number in kept_numbers(reading)
        assert reading.client.delete(PARAMS, headers=own("A")).status_code == 200
        assert kept_numbers(writing) == []

    def test_what_one_writes_the_other_generates_with(self, daemons: list[Daemon]) -> None:
        one, other = daemons
        for length in (1, 3, 2):
            changes = {"max_length": length, "temperature": 0}
            assert one.client.post(PARAMS, json=changes, headers=own("A")).status_code == 200
            for route in ("/api/v0/completions", "/v1/completions"):
                answer = other.client.post(route, json=WORDS, headers=own("A"))
                assert answer.json()["usage"]["completion_tokens"] == length

    def test_writes_through_both_at_once_lose_nothing(self, daemons: list[Daemon]) -> None:
        fields = {
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 5,
            "min_p": 0.5,
            "min_length": 5,
            "max_length": 55,
            "do_sample": False,
            "repetition_penalty": 1.5,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "seed": 5,
            "stop": ["5"],
        }
        clients = [f"c{number}" for number in range(10)]

        def write(number: int, client: str, name: str) -> int:
            http = daemons[number % 2].client
            return http.post(PARAMS, json={name: fields[name]}, headers=own(client)).status_code

        writes = [(client, name) for client in clients for name in fields]
        with ThreadPoolExecutor(len(fields)) as callers:
            statuses = list(callers.map(write, range(len(writes)), *zip(*writes, strict=True)))
        assert statuses == [200] * len(writes)
        for daemon in daemons:
            for client in clients:
                assert show(daemon, client, {})["params"] == fields

    def test_while_the_server_is_down_requests_are_refused_and_nothing_else_happens(
        self, daemons: list[Daemon], postgres: Postgres
    ) -> None:
        for daemon in daemons:
            assert [answer.status_code for answer in ask(daemon)] == [200] * len(REQUESTS)
        with stopped(postgres):
            for daemon in daemons:
                for refused in ask(daemon):
                    assert refused.status_code == 503, refused.text
                    assert int(refused.headers["Retry-After"]) >= 1
                    assert refused.json().get("error", refused.json())["code"] == UNAVAILABLE
                    assert PASSWORD not in refused.text
                assert daemon.client.get("/livez").status_code == 200
        for daemon in daemons:
            assert [answer.status_code for answer in ask(daemon)] == [200] * len(REQUESTS)
            assert daemon.logged("store_failed")
            assert PASSWORD not in daemon.log_text()

    def test_a_daemon_that_finds_no_server_says_where_it_looked(
        self, postgres: Postgres, tmp_path: Path
    ) -> None:
        url = postgres.new_schema(password=PASSWORD)
        with stopped(postgres):
            refused = serve(tmp_path, "--state-dir", str(tmp_path), LEMONADE_DATABASE_URL=url)
        assert refused.returncode == 1
        *_, line = refused.stderr.splitlines()
        assert "postgresql:///postgres: " in line
        assert PASSWORD not in line


def ask(daemon: Daemon) -> list[httpx.Response]:
    return [
        daemon.client.request(verb, path, json=body, headers=own("A"))
        for verb, path, body in REQUESTS
    ]


@contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()
