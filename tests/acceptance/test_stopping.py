"""How a daemon ends that somebody still uses: soon, with an answer for everybody, and exit code 0.

That code says too that it was in time: after `longest_end_s` the daemon gives up with another.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from lemonade_serve.cli.daemon import longest_end_s
from lemonade_serve.settings import Settings
from tests.daemon import MODEL, Daemon, eventually, is_gone

StartDaemon = Callable[..., Daemon]

DOCKER_WAITS_S = 10
LONG = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 1000, "ignore_eos": True}


def begin(daemon: Daemon, **more: Any) -> Iterator[dict[str, Any]]:
    """A stream that runs."""
    events = daemon.events("/v1/completions", {**LONG, **more})
    next(events)
    return events


def hang(worker: psutil.Process) -> None:
    """From now on it does nothing, but dies when it is killed."""
    worker.suspend()
    eventually(lambda: worker.status() == psutil.STATUS_STOPPED)


def drain(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGTERM)
    eventually(lambda: daemon.logged("daemon_draining"))


def test_by_default_it_is_gone_before_docker_kills_it() -> None:
    assert longest_end_s(Settings()) <= DOCKER_WAITS_S - 0.5


def test_a_stream_of_a_minute_is_ended_in_time_by_default(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    running = begin(daemon, max_tokens=8000)
    drain(daemon)
    *_, last = running
    assert last["error"]["code"] == "draining"
    assert daemon.process.wait(60) == 0
    assert daemon.logged("requests_cut", requests=1)


@pytest.mark.parametrize("status_hold_s", ["60", "0.01"])
def test_who_waits_for_a_turn_is_told_at_once_while_the_running_stream_finishes(
    start_daemon: StartDaemon, together: ThreadPoolExecutor, status_hold_s: str
) -> None:
    daemon = start_daemon(
        LEMONADE_WORKER__SEQUENCE_SLOTS="1",
        LEMONADE_SERVER__STATUS_HOLD_S=status_hold_s,
        LEMONADE_SERVER__KEEPALIVE_S="0.05",
        LEMONADE_SERVER__DRAIN_TIMEOUT_S="60",
    )
    running = begin(daemon, max_tokens=200)
    posts = [{**LONG, "stream": stream} for stream in (False, True)]
    waiting = [together.submit(daemon.client.post, "/v1/completions", json=p) for p in posts]
    eventually(lambda: daemon.model()["requests_waiting"] == 2)
    if status_hold_s != "60":
        eventually(lambda: daemon.model()["is_streaming"])
    drain(daemon)
    whole, stream = (answer.result(30) for answer in waiting)
    assert daemon.logged("daemon_stopped") == []
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "draining")
    assert int(whole.headers["Retry-After"]) >= 1
    assert whole.headers["Connection"] == "close"
    if status_hold_s == "60":
        assert (stream.status_code, stream.json()["error"]["code"]) == (503, "draining")
        assert int(stream.headers["Retry-After"]) >= 1
    else:
        assert stream.status_code == 200
        *_, last = [line for line in stream.text.split("\n\n") if line.startswith("data: ")]
        assert '"code":"draining"' in last
    *_, end = running
    assert end["choices"][0]["finish_reason"] == "length"
    assert daemon.process.wait(60) == 0


def test_who_waits_for_room_is_told_at_once(
    start_abc: Callable[..., Daemon], together: ThreadPoolExecutor
) -> None:
    daemon = start_abc(1, LEMONADE_POOL__MAX_WAIT_S="600", LEMONADE_SERVER__DRAIN_TIMEOUT_S="60")
    running = begin(daemon, model="a", max_tokens=200)
    asked = together.submit(daemon.complete, "b")
    load = together.submit(daemon.client.get, "/api/v0/load", params={"model": "c"})
    eventually(lambda: sorted(daemon.waiting()) == ["b", "c"])
    drain(daemon)
    assert asked.result(30).json()["error"]["code"] == "draining"
    assert load.result(30).json()["code"] == "draining"
    assert {asked.result().status_code, load.result().status_code} == {503}
    *_, end = running
    assert end["choices"][0]["finish_reason"] == "length"
    assert daemon.process.wait(60) == 0
    assert daemon.loads() == {"a": 1}


@pytest.mark.parametrize("drain_timeout_s", ["60", "0.5"])
def test_everybody_gets_an_answer_however_many_ask(
    start_daemon: StartDaemon, together: ThreadPoolExecutor, drain_timeout_s: str
) -> None:
    daemon = start_daemon(
        LEMONADE_WORKER__SEQUENCE_SLOTS="4", LEMONADE_SERVER__DRAIN_TIMEOUT_S=drain_timeout_s
    )

    def ask(n: int) -> str:
        """How it ended; raises if the connection was cut."""
        body = {**LONG, "max_tokens": 100 + n, "stream": n % 2 == 0}
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket))) as client:
            answer = client.post("http://daemon/v1/completions", json=body, timeout=60)
        if "draining" in answer.text:
            assert answer.status_code == 503 or answer.text.endswith("}\n\n"), answer.text
            return "draining"
        assert '"finish_reason":"length"' in answer.text
        assert n % 2 or answer.text.endswith("data: [DONE]\n\n")
        return "whole"

    asked = [together.submit(ask, n) for n in range(16)]
    eventually(lambda: daemon.health()["model_loaded"])
    eventually(lambda: daemon.model()["requests_running"] == 4)
    eventually(lambda: daemon.model()["requests_waiting"] >= 8)
    assert daemon.terminate() == 0
    ends = [answer.result() for answer in asked]
    assert ends.count("whole") >= (4 if drain_timeout_s == "60" else 0)
    assert ends.count("draining") >= 8


def test_a_load_under_way_is_given_up(
    start_daemon: StartDaemon, together: ThreadPoolExecutor
) -> None:
    daemon = start_daemon(LEMONADE_POOL__PRELOAD=MODEL)
    (worker,) = eventually(daemon.workers)
    hang(worker)
    assert daemon.logged("checkpoint_loaded") == []
    unready = daemon.client.get("/readyz")
    assert (unready.status_code, unready.json()["error"]["code"]) == (503, "not_ready")
    asked = together.submit(daemon.complete, MODEL)
    eventually(lambda: daemon.model()["requests_waiting"] == 2)
    assert daemon.terminate() == 0
    assert (asked.result().status_code, asked.result().headers["Retry-After"]) == (503, "5")
    assert is_gone(worker)
    assert daemon.logged("checkpoint_unloaded", reason="shutdown")
    assert daemon.logged("preload_failed") == []


def test_a_worker_that_hangs_in_mid_stream_holds_nobody_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(LEMONADE_SERVER__DRAIN_TIMEOUT_S="0.2")
    running = begin(daemon)
    (worker,) = daemon.workers()
    hang(worker)
    assert daemon.terminate() == 0
    *_, last = running
    assert last["error"]["code"] == "draining"
    assert is_gone(worker)
    assert daemon.logged("checkpoint_unloaded", how="killed by SIGKILL", reason="shutdown")


def test_a_worker_that_hangs_while_idle_holds_nobody_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.use(MODEL)
    (worker,) = daemon.workers()
    hang(worker)
    assert daemon.terminate() == 0
    assert is_gone(worker)


def test_a_client_that_says_or_reads_nothing_holds_nobody_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(LEMONADE_SERVER__DRAIN_TIMEOUT_S="0.2")
    with socket.socket(socket.AF_UNIX) as half_sent, socket.socket(socket.AF_UNIX) as unread:
        half_sent.connect(str(daemon.socket))
        head = "POST /v1/completions HTTP/1.1\r\nHost: daemon\r\nContent-Length: 999\r\n\r\n{"
        half_sent.sendall(head.encode())
        body = httpx.Request("POST", "http://daemon", json={**LONG, "stream": True}).content
        unread.connect(str(daemon.socket))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: daemon\r\nContent-Length: {len(body)}"
        unread.sendall(f"{head}\r\n\r\n".encode() + body)
        eventually(lambda: daemon.health()["model_loaded"])
        eventually(lambda: daemon.model()["requests_running"] == 1)
        assert daemon.terminate() == 0


def test_one_that_still_starts_ends_at_once(tmp_path: Path) -> None:
    with socket.socket() as silent:  # a database that takes connections, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = {
            **os.environ,
            "LEMONADE_DATABASE_URL": f"postgresql://me@{place}/lemonade",
            "LEMONADE_STORE_TIMEOUT_S": "600",
            "LEMONADE_STATE_DIR": str(tmp_path),
            "LEMONADE_SERVER__UDS": str(tmp_path / "daemon.sock"),
        }
        command = [sys.executable, "-m", "lemonade_serve", "serve"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            with closing(connection):
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert b"daemon_stopped" in said


def test_one_that_cannot_end_gives_up() -> None:
    code = (
        "import threading; from lemonade_serve.cli.daemon import _give_up_after\n"
        "_give_up_after(0.05); threading.Event().wait()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"daemon_gave_up" in done.stdout + done.stderr
