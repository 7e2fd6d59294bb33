"""Prometheus' own programs, on a real daemon."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon, eventually

pytestmark = pytest.mark.system
StartDaemon = Callable[..., Daemon]


def _program(name: str) -> str:
    program = shutil.which(name)
    assert program, f"there is no {name}: install Debian's package `prometheus`"
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _used(daemon: Daemon) -> dict[str, int]:
    """Some requests, and the tokens that they came to by what their answers say."""
    usages = [daemon.complete(model).json()["usage"] for model in "aabab"]
    daemon.complete("nothing")
    return {
        "prompt": sum(usage["prompt_tokens"] for usage in usages),
        "generated": sum(usage["completion_tokens"] for usage in usages),
    }


def test_promtool_has_nothing_to_say_of_a_daemon_in_use(start_abc: StartDaemon) -> None:
    daemon = start_abc(room=1)
    _used(daemon)
    checked = subprocess.run(
        [_program("promtool"), "check", "metrics"],
        input=daemon.client.get("/metrics").content,
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, (checked.stdout + checked.stderr).decode()) == (0, "")


def test_prometheus_scrapes_the_daemon_and_finds_its_totals(
    start_abc: StartDaemon, tmp_path: Path
) -> None:
    port = _free_port()
    daemon = start_abc(room=2, LEMONADE_SERVER__PORT=str(port))
    tokens = _used(daemon)
    with _prometheus(tmp_path / "prometheus", f"127.0.0.1:{port}") as prometheus:

        def query(expression: str) -> float | None:
            answer = prometheus.get("/api/v1/query", params={"query": expression}).json()
            found = answer["data"]["result"]
            return float(found[0]["value"][1]) if found else None

        eventually(lambda: query("up") == 1)
        assert query("sum(lemonade_prompt_tokens_total)") == tokens["prompt"]
        assert query("sum(lemonade_generated_tokens_total)") == tokens["generated"]
        assert query('sum(lemonade_requests_total{outcome="ok"})') == 5
        assert query('sum(lemonade_requests_total{model="other", outcome="error"})') == 1
        assert query('sum(lemonade_model_state{state="resident"})') == 2
        assert query("lemonade_build_info") == 1
        (target,) = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")


@contextmanager
def _prometheus(directory: Path, target: str) -> Iterator[httpx.Client]:
    """A server that scrapes one target each second; its API."""
    directory.mkdir()
    config, address = directory / "prometheus.json", f"127.0.0.1:{_free_port()}"
    jobs = [{"job_name": "lemonade", "static_configs": [{"targets": [target]}]}]
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    config.write_text(json.dumps(settings))  # which is YAML too
    command = [
        _program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}") as client:
            eventually(lambda: process.poll() is not None or _answers(client))
            assert process.poll() is None, (directory / "log").read_text()
            yield client
    finally:
        process.terminate()
        process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
