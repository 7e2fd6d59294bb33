"""The stack comes up by the command of the docs, and everything in it has found each other.

Without Grafana, whose image is large: its dashboard has tests of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.daemon import MODEL, eventually
from tests.system.containers import docker, inspect

pytestmark = pytest.mark.system

SERVICES = ("lemonade", "prometheus", "alertmanager")
PORTS = ("LEMONADE_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Stack:
    """A project of Compose's own, on ports of its own."""

    def __init__(self) -> None:
        self._ports = dict(zip(PORTS, map(str, _free_ports(len(PORTS))), strict=True))
        self._name = f"lemonade-test-{os.getpid()}"

    def compose(self, *command: str) -> str:
        named = ("compose", "--project-name", self._name)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LEMONADE_")}
        done = docker(*named, *command, env={**environment, **self._ports})
        return done.stdout + done.stderr

    def up(self) -> None:
        self.compose("up", "--detach", "--wait", *SERVICES)

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self._ports[port]}"


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    if docker("compose", "version", check=False).returncode:
        pytest.skip("there is no `docker compose`")
    stack = Stack()
    try:
        stack.up()
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout=10")


def test_it_answers_out_of_the_model_that_was_imported(stack: Stack) -> None:
    body = {"model": MODEL, "prompt": "The Eiffel Tower is in the city of", "temperature": 0}
    url = f"{stack.url('LEMONADE_PORT')}/v1/completions"
    answer = httpx.post(url, json={**body, "max_tokens": 4}, timeout=60, trust_env=False)
    assert "Paris" in answer.json()["choices"][0]["text"]


def test_what_is_ours_is_read_only_and_has_no_rights(stack: Stack) -> None:
    for service in SERVICES:
        container = stack.compose("ps", "--quiet", service).strip()
        host = inspect(container, ".HostConfig")
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        published = [b for ports in host["PortBindings"].values() for b in ports]
        assert [binding["HostIp"] for binding in published] == ["127.0.0.1"]


def test_prometheus_scrapes_the_daemon_and_knows_its_alerts(stack: Stack) -> None:
    with httpx.Client(base_url=stack.url("PROMETHEUS_PORT"), trust_env=False) as prometheus:

        def up() -> bool:
            query = {"query": 'up{job="lemonade"}'}
            found = prometheus.get("/api/v1/query", params=query).json()["data"]["result"]
            return [one["value"][1] for one in found] == ["1"]

        eventually(up)
        rules = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        assert "LemonadeDown" in {rule["name"] for group in rules for rule in group["rules"]}
        found = prometheus.get("/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
        assert [one["url"] for one in found] == ["http://alertmanager:9093/api/v2/alerts"]


def test_a_second_start_imports_nothing_and_says_so(stack: Stack) -> None:
    stack.up()
    log = stack.compose("logs", "--no-log-prefix", "import")
    assert log.count("Imported in int8: /var/cache/lemonade/") == 1
    assert log.count("is here already: /var/cache/lemonade/") == 1
