"""Requests that wait: for room, for a load, for one another; against a real daemon."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests import checkpoints
from tests.daemon import Daemon, eventually
from tests.stories import kept_busy

Start = Callable[..., Daemon]


def test_two_devices_load_side_by_side(start_abc: Start) -> None:
    daemon = start_abc(room=1, LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER="cpu")
    with _Caller(daemon, "a", device="npu") as a, _Caller(daemon, "b", device="cpu") as b:
        assert (a.status(), b.status()) == (200, 200)
    told = [line["event"] for line in daemon.log() if line["event"].startswith("checkpoint_load")]
    assert told == ["checkpoint_loading"] * 2 + ["checkpoint_loaded"] * 2
    # nor did one worker wait for the other's end
    loaded = daemon.logged("checkpoint_loaded")
    ends = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in loaded]
    begins = [end - line["load_s"] for end, line in zip(ends, loaded, strict=True)]
    assert max(begins) < min(ends)


class _Caller:
    """A client that has sent its request and need not read the answer."""

    def __init__(self, daemon: Daemon, model: str, **more: object) -> None:
        body = {"model": model, "prompt": "Hi", "max_length": 2, **more}
        content = json.dumps(body).encode()
        head = "POST /api/v0/completions HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(daemon.socket))
        self._socket.sendall(head.encode() + content)

    def status(self) -> int:
        with closing(self._socket.makefile("rb")) as answer:
            return int(answer.read().split()[1])

    def leave(self) -> None:
        self._socket.close()

    def __enter__(self) -> _Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def test_whoever_waits_for_a_busy_model_s_room_gets_it_and_nobody_is_cut(start_abc: Start) -> None:
    daemon = start_abc(room=1, LEMONADE_POOL__MAX_WAIT_S="0.3")
    with kept_busy(daemon, "a", clients=2):
        daemon.use("b")
    # a, b once, and a again: neither starved, and nobody was moved twice
    assert daemon.loads() == {"a": 2, "b": 1}
    assert daemon.departures(reason="lru") == ["a", "b"]


def test_a_model_that_was_just_loaded_stays_for_its_minimum_residency(
    start_abc: Start, together: ThreadPoolExecutor
) -> None:
    daemon = start_abc(room=1, LEMONADE_POOL__MIN_RESIDENCY_S="3600")
    daemon.use("a")
    waits = together.submit(daemon.complete, "b")
    eventually(lambda: daemon.waiting() == ["b"])
    for _ in range(20):
        daemon.use("a")
    assert not waits.done()
    assert daemon.loads() == {"a": 1}
    daemon.client.post("/api/v0/unload", json={"model": "a"})
    assert waits.result().status_code == 200
    assert daemon.loads() == {"a": 1, "b": 1}


def test_a_wait_for_room_ends_with_an_error_that_says_when_to_come_again(start_abc: Start) -> None:
    daemon = start_abc(
        room=1,
        LEMONADE_POOL__QUEUE_TIMEOUT_S="0.3",
        LEMONADE_POOL__MAX_WAIT_S="3600",
        LEMONADE_SERVER__STATUS_HOLD_S="60",
    )
    # This wait may end the same way, and the load that it began goes on.
    daemon.client.post("/api/v0/load", json={"model": "a"})
    eventually(lambda: "a" in daemon.resident())
    with kept_busy(daemon, "a"):
        for stream in (False, True):
            refused = daemon.complete("b", stream=stream)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "no_capacity"
            assert int(refused.headers["Retry-After"]) >= 1
        refused = daemon.client.post("/api/v0/load", json={"model": "b"})
        assert (refused.status_code, refused.json()["code"]) == (503, "no_capacity")
        assert daemon.waiting() == []
    assert daemon.loads() == {"a": 1}


def test_no_load_starts_for_a_client_that_has_left(start_abc: Start) -> None:
    daemon = start_abc(room=1, LEMONADE_POOL__MAX_WAIT_S="3600")
    with kept_busy(daemon, "a"), _Caller(daemon, "b") as caller:
        eventually(lambda: daemon.waiting() == ["b"])
        caller.leave()
        eventually(lambda: daemon.waiting() == [])
    eventually(lambda: not daemon.model()["is_busy"])  # from here on b would have its room
    daemon.use("a")
    assert daemon.loads() == {"a": 1}


def test_requests_that_come_together_share_one_load(
    start_abc: Start, together: ThreadPoolExecutor
) -> None:
    daemon = start_abc(room=1)
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    wanted = [
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
        ("/v1/chat/completions", chat),
        ("/api/v0/completions", {"prompt": "Hi", "max_length": 2}),
        ("/api/v0/load", {}),
        ("/api/v0/pin", {}),
    ]

    def ask(path: str, body: dict[str, Any]) -> int:
        return daemon.client.post(path, json={"model": "a", **body}).status_code

    answers = [together.submit(ask, *each) for each in wanted * 2]
    assert [answer.result() for answer in answers] == [200] * 10
    assert daemon.loads() == {"a": 1}
    assert len(daemon.workers()) == 1


@pytest.mark.parametrize(("cooldown_s", "evictions"), [("3600", 1), ("0", 3)])
def test_a_broken_model_evicts_others_once_in_its_cool_down(
    start_daemon: Start, cache_dir: Path, tmp_path: Path, cooldown_s: str, evictions: int
) -> None:
    source, root = checkpoints.original(cache_dir), tmp_path / "models"
    checkpoints.link(source, root / "a")
    checkpoints.link(source, root / "broken", {"model.onnx.data": b"short"})
    daemon = start_daemon(
        LEMONADE_CACHE_DIR=str(root),
        LEMONADE_POOL__MIN_RESIDENCY_S="0",
        LEMONADE_POOL__LOAD_COOLDOWN_S=cooldown_s,
        LEMONADE_DEVICES__CPU__MAX_MODELS="1",
    )
    for _ in range(3):
        daemon.use("a")
        refused = daemon.complete("broken")
        assert refused.status_code == 500
        assert refused.json()["error"]["code"] == "model_load_error"
    assert daemon.departures(reason="lru") == ["a"] * evictions
    assert len(daemon.logged("checkpoint_load_failed")) == evictions
