"""What a container's log collector gets."""

from __future__ import annotations

import datetime
import json
import signal
from collections.abc import Callable

from tests.daemon import MODEL, Daemon, eventually

PROMPT = "Nobody but the model may read this"


def test_every_line_is_an_object_with_its_time_its_level_and_its_event(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(LEMONADE_LOG__FORMAT="auto")  # which is JSON where there is no terminal
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1000, "ignore_eos": True}
    daemon.use(MODEL)
    assert daemon.complete("nobody").status_code == 404
    assert daemon.client.post("/v1/completions", content=b"{").status_code == 400
    running = daemon.events("/v1/completions", body)
    next(running)
    (worker,) = daemon.workers()
    worker.send_signal(signal.SIGSEGV)
    *_, last = running
    assert last["error"]["code"] == "worker_lost"
    eventually(lambda: daemon.logged("stream_failed"))
    daemon.use(MODEL)
    assert daemon.terminate() == 0
    lines = [json.loads(line) for line in daemon.log_text().splitlines()]
    for line in lines:
        assert datetime.datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        assert line["level"] in {"info", "warning", "error"}
        assert line["event"]
    assert {"daemon_ready", "request_finished", "checkpoint_unloaded", "daemon_stopped"} <= {
        line["event"] for line in lines
    }
    assert PROMPT not in daemon.log_text()
