"""How requests, workers and the daemon end, whoever is first to go."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import checkpoints
from tests.daemon import MODEL, Daemon, eventually, is_gone

StartDaemon = Callable[..., Daemon]
Call = Callable[[Daemon, dict[str, Any]], "Caller"]

LONG = {
    "model": MODEL,
    "prompt": "Once upon a time",
    "max_tokens": 1000,
    "ignore_eos": True,
    "temperature": 0,  # plain words: every token is an event of its own
}
SLOW_PREFILL = {"model": MODEL, "prompt": "word " * 3000, "max_tokens": 100, "ignore_eos": True}


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """A daemon with the model loaded and every discarded token in its log."""
    daemon = start_daemon(LEMONADE_LOG__LEVEL="debug")
    assert daemon.client.get("/api/v0/load", params={"model": MODEL}).json()["status"] == "success"
    return daemon


class Caller:
    """A client whose connection can be cut at any moment, and who knows when."""

    def __init__(self, daemon: Daemon, body: dict[str, Any]) -> None:
        self._daemon = daemon
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(daemon.socket))
        content = json.dumps(body).encode()
        self.request_id = f"caller-{time.monotonic_ns()}"
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: daemon\r\nContent-Type: application/json\r\n"
            f"X-Request-Id: {self.request_id}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._received = b""
        self._socket.sendall(head.encode() + content)

    def read_until(self, count: int) -> None:
        """Until so many events have come."""
        while self._received.count(b"data: ") < count:
            self._received += self._socket.recv(65536)

    def leave(self) -> float:
        """Take what has come, and cut the connection; returns when, in Unix seconds."""
        if self._socket.fileno() >= 0:
            self._socket.setblocking(False)
            with suppress(BlockingIOError):
                while piece := self._socket.recv(65536):
                    self._received += piece
        self._socket.close()
        return time.time()

    def ended(self) -> dict[str, Any]:
        """The line of the log that says how its request ended."""
        (line,) = eventually(
            lambda: self._daemon.logged("request_finished", request_id=self.request_id)
        )
        assert line["outcome"] == "cancelled", line
        eventually(lambda: self._daemon.model()["requests_running"] == 0)
        _settle(self._daemon)
        return dict(line)

    def unwanted(self) -> int:
        """Tokens that were generated for it and that it did not get."""
        tokens: int = self.ended()["completion_tokens"]
        return tokens - self._received.count(b"data: ") + self.discarded()

    def discarded(self) -> int:
        """Tokens that came from the worker when the daemon had given the request up."""
        return len(self._daemon.logged("event_discarded", kind="Token"))


@pytest.fixture
def call() -> Iterator[Call]:
    """Makes callers, and hangs up for those that forget to."""
    callers: list[Caller] = []

    def make(daemon: Daemon, body: dict[str, Any]) -> Caller:
        callers.append(Caller(daemon, body))
        return callers[-1]

    yield make
    for caller in callers:
        caller.leave()


def _settle(daemon: Daemon) -> None:
    """Another request goes through: what was before it in the worker has passed."""
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1}
    assert daemon.client.post("/v1/completions", json=body).status_code == 200


def test_one_that_warns_before_its_start_still_logs_it(start_daemon: StartDaemon) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    anywhere = {"LEMONADE_SERVER__HOST": "0.0.0.0", "LEMONADE_SERVER__PORT": port}  # noqa: S104
    daemon = start_daemon(**anywhere, LEMONADE_SERVER__ALLOW_KEYLESS="true")
    assert daemon.logged("keyless")
    assert daemon.terminate() == 0
    assert daemon.logged("daemon_stopped")


def test_a_client_that_leaves_its_stream_gets_no_more_tokens(daemon: Daemon, call: Call) -> None:
    caller = call(daemon, {**LONG, "stream": True})
    caller.read_until(10)
    caller.leave()
    assert caller.unwanted() <= 2


def test_a_client_that_leaves_before_its_whole_answer_gets_no_more_tokens(
    daemon: Daemon, call: Call
) -> None:
    caller = call(daemon, LONG)
    eventually(lambda: daemon.model()["requests_running"] == 1)
    witness = {**LONG, "max_tokens": 20}
    assert daemon.client.post("/v1/completions", json=witness).status_code == 200
    left = caller.leave()
    line = caller.ended()
    # It has no events to count: how many tokens fit in the time that it took to notice?
    noticed = datetime.datetime.fromisoformat(line["timestamp"]).timestamp() - left
    assert int(noticed / line["time_per_output_token"]) + caller.discarded() <= 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_during_prefill_gets_no_tokens(
    daemon: Daemon, stream: bool, call: Call
) -> None:
    caller = call(daemon, {**SLOW_PREFILL, "stream": stream})
    eventually(lambda: daemon.model()["requests_running"] == 1)
    caller.leave()
    assert caller.unwanted() == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_the_queue_gets_no_tokens(
    start_daemon: StartDaemon, stream: bool, call: Call
) -> None:
    daemon = start_daemon(LEMONADE_LOG__LEVEL="debug", LEMONADE_WORKER__SEQUENCE_SLOTS="1")
    events = daemon.events("/v1/completions", {**LONG, "max_tokens": 100})
    next(events)
    waiting = call(daemon, {**LONG, "stream": stream})
    eventually(lambda: daemon.model()["requests_waiting"] == 1)
    waiting.leave()
    eventually(lambda: daemon.model()["requests_waiting"] == 0)
    *_, last = events
    assert last["choices"][0]["finish_reason"] == "length"
    assert waiting.unwanted() == 0


def test_the_queue_has_an_end(start_daemon: StartDaemon, call: Call) -> None:
    daemon = start_daemon(LEMONADE_WORKER__SEQUENCE_SLOTS="1", LEMONADE_WORKER__MAX_QUEUE="1")
    running = call(daemon, {**LONG, "stream": True})
    running.read_until(2)
    call(daemon, {**LONG, "stream": True})
    eventually(lambda: daemon.model()["requests_waiting"] == 1)
    refused = daemon.client.post("/v1/completions", json={**LONG, "stream": True})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_a_killed_worker_ends_its_stream_with_an_error_and_the_next_request_reloads(
    daemon: Daemon,
) -> None:
    (worker,) = daemon.workers()
    events = daemon.events("/v1/completions", LONG)
    next(events)
    worker.kill()
    *_, last = events
    assert last["error"]["code"] == "worker_lost"
    answer = daemon.client.post("/v1/completions", json={**LONG, "max_tokens": 2})
    assert answer.json()["usage"]["completion_tokens"] == 2
    (replacement,) = daemon.workers()
    assert replacement.pid != worker.pid


@pytest.mark.parametrize("busy_with", ["nothing", "decode", "prefill", "load"])
def test_no_worker_outlives_a_killed_daemon(
    start_daemon: StartDaemon, busy_with: str, call: Call
) -> None:
    daemon = start_daemon()
    if busy_with == "load":
        caller = call(daemon, LONG)
    else:
        caller = call(daemon, {**(SLOW_PREFILL if busy_with == "prefill" else LONG)})
        eventually(lambda: daemon.health()["model_loaded"])
        eventually(lambda: daemon.model()["requests_running"] == 1)
        if busy_with == "nothing":
            caller.leave()
            eventually(lambda: not daemon.model()["is_busy"])
    (worker,) = eventually(daemon.workers)
    daemon.process.kill()
    eventually(lambda: is_gone(worker), 2)


def test_on_sigterm_new_requests_are_refused_while_running_streams_finish(daemon: Daemon) -> None:
    events = daemon.events("/v1/completions", {**LONG, "max_tokens": 100})
    next(events)
    daemon.process.send_signal(signal.SIGTERM)
    eventually(lambda: daemon.logged("daemon_draining"))
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(daemon.socket)), base_url="http://daemon"
    ) as newcomer:
        refused = newcomer.post("/v1/completions", json=LONG)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["Retry-After"]) >= 1
        assert newcomer.get("/api/v0/health").json()["code"] == "draining"
        assert newcomer.get("/readyz").status_code == 503
        assert newcomer.get("/livez").status_code == 200
    *_, last = events
    assert last["choices"][0]["finish_reason"] == "length"
    assert daemon.process.wait(30) == 0
    assert daemon.logged("daemon_stopped")


def test_streams_that_outlast_the_drain_end_with_an_error_and_the_exit_is_clean(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(LEMONADE_SERVER__DRAIN_TIMEOUT_S="0.2")
    events = daemon.events("/v1/completions", LONG)
    next(events)
    workers = daemon.workers()
    daemon.process.send_signal(signal.SIGTERM)
    *_, last = events
    assert last["error"]["code"] == "draining"
    assert daemon.process.wait(30) == 0
    assert all(map(is_gone, workers))


def test_a_second_signal_cuts_the_drain_short(daemon: Daemon) -> None:
    events = daemon.events("/v1/completions", LONG)
    next(events)
    daemon.process.send_signal(signal.SIGINT)
    eventually(lambda: daemon.logged("daemon_draining"))
    daemon.process.send_signal(signal.SIGINT)
    *_, last = events
    assert last["error"]["code"] == "draining"
    assert daemon.process.wait(30) == 0


def test_an_unload_waits_for_running_requests_and_for_the_end_of_the_worker(
    daemon: Daemon,
) -> None:
    (worker,) = daemon.workers()
    events = daemon.events("/v1/completions", {**LONG, "max_tokens": 60})
    next(events)
    unloaded = threading.Event()

    def unload() -> None:
        assert daemon.client.post("/api/v0/unload").json()["status"] == "success"
        assert is_gone(worker)
        unloaded.set()

    thread = threading.Thread(target=unload)
    thread.start()
    *_, last = events
    assert last["choices"][0]["finish_reason"] == "length"
    thread.join(30)
    assert unloaded.is_set()
    assert daemon.health()["all_models_loaded"] == []


def test_a_forced_unload_cuts_running_requests(daemon: Daemon) -> None:
    events = daemon.events("/v1/completions", LONG)
    next(events)
    assert daemon.client.post("/api/v0/unload", json={"force": True}).status_code == 200
    *_, last = events
    assert "unloaded" in last["error"]["message"]


def test_requests_that_come_together_share_one_load(start_daemon: StartDaemon, call: Call) -> None:
    daemon = start_daemon()
    callers = [call(daemon, {**LONG, "max_tokens": 3, "stream": True}) for _ in range(5)]
    for caller in callers:
        caller.read_until(4)
    assert len(daemon.logged("checkpoint_loaded")) == 1
    assert len(daemon.workers()) == 1


def test_a_checkpoint_that_cannot_be_loaded_is_an_error_and_no_process(
    start_daemon: StartDaemon, cache_dir: Path, tmp_path: Path
) -> None:
    cut = {"model.onnx.data": b"short"}
    checkpoints.link(checkpoints.original(cache_dir), tmp_path / "broken", cut)
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(tmp_path))
    for stream in (False, True):
        answer = daemon.client.post(
            "/v1/completions", json={**LONG, "model": "broken", "stream": stream}
        )
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "model_load_error"
    assert daemon.workers() == []
    assert daemon.health()["all_models_loaded"] == []


def test_two_daemons_do_not_share_an_address(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for address in (["--uds", str(daemon.socket)], ["--port", port]):
            command = [sys.executable, "-m", "lemonade_serve", "serve", *address]
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            assert second.returncode == 1
            assert "listen" in second.stderr
    os.kill(daemon.process.pid, 0)
