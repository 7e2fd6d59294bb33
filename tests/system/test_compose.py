"""The stack comes up by the command of the docs, and everything in it has found each other.

Without Grafana, whose image is large: its dashboard has tests of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.daemon import MODEL, eventually
from tests.system.containers import SERVICES, Project, docker, inspect

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Project]:
    if docker("compose", "version", check=False).returncode:
        pytest.skip("there is no `docker compose`")
    stack = Project("lemonade-test")
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def test_it_answers_out_of_the_model_that_was_imported(stack: Project) -> None:
    body = {"model": MODEL, "prompt": "The Eiffel Tower is in the city of", "temperature": 0}
    url = f"{stack.urls['lemonade']}/v1/completions"
    answer = httpx.post(url, json={**body, "max_tokens": 4}, timeout=60, trust_env=False)
    assert "Paris" in answer.json()["choices"][0]["text"]


def test_what_is_ours_is_read_only_and_has_no_rights(stack: Project) -> None:
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


def test_prometheus_scrapes_the_daemon_and_knows_its_alerts(stack: Project) -> None:
    with httpx.Client(base_url=stack.urls["prometheus"], trust_env=False) as prometheus:

        def up() -> bool:
            query = {"query": 'up{job="lemonade"}'}
            found = prometheus.get("/api/v1/query", params=query).json()["data"]["result"]
            return [one["value"][1] for one in found] == ["1"]

        eventually(up)
        rules = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        assert "LemonadeDown" in {rule["name"] for group in rules for rule in group["rules"]}
        found = prometheus.get("/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
        assert [one["url"] for one in found] == ["http://alertmanager:9093/api/v2/alerts"]


def test_a_second_start_imports_nothing_and_says_so(stack: Project) -> None:
    stack.up()
    log = stack.compose("logs", "--no-log-prefix", "import")
    assert log.count("Imported in int8: /var/cache/lemonade/") == 1
    assert log.count("is here already: /var/cache/lemonade/") == 1
