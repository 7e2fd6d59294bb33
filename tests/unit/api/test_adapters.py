"""Adapters on every route: listed, asked, and told by their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import asynchronous
from tests.unit.api.conftest import House, Open

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PROMPT = {"prompt": "Hi"}
ROUTES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", PROMPT),
    ("/v1/responses", {"input": "Hi"}),
    ("/api/v0/completions", PROMPT),
    ("/api/v0/chat/completions", CHAT),
]


@pytest.fixture(autouse=True)
def _adapters(open_house: Open, tmp_path: Path) -> None:
    """`pirate` of both models, and `formal` of the small one."""
    for place in ("small/int4/adapters/pirate", "small/int4/formal", "org/large/fp32/pirate"):
        path = tmp_path / f"{place}.onnx_adapter"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


async def listed(house: House) -> dict[str, dict[str, Any]]:
    return {m["id"]: m for m in (await house.client.get("/v1/models")).json()["data"]}


@asynchronous
async def test_each_is_a_model_of_its_own(open_house: Open) -> None:
    async with open_house() as house:
        models = await listed(house)
        names = ["small", "small:formal", "small:pirate", "org/large", "org/large:pirate"]
        assert sorted(models) == sorted(names)
        base, adapter = models["small"], models["small:pirate"]
        assert base["adapters"] == ["formal", "pirate"]
        assert "adapters" in base["capabilities"]
        assert base["parent"] is None
        assert (adapter["root"], adapter["parent"], adapter["size"]) == ("small", "small", 5)
        assert adapter["adapters"] == []
        assert "adapters" not in adapter["capabilities"]
        assert (await house.client.get("/v1/models/org/large:pirate")).json()["parent"]


@asynchronous
async def test_an_alias_of_one_is_listed_as_it_is(open_house: Open) -> None:
    async with open_house() as house:
        body = {"alias": "chat", "model": "small:pirate"}
        assert (await house.client.post("/api/v0/aliases", json=body)).status_code == 200
        assert (await listed(house))["chat"]["parent"] == "small"


@pytest.mark.parametrize(("route", "body"), ROUTES)
@asynchronous
async def test_every_route_takes_one_and_answers_by_its_name(
    open_house: Open, route: str, body: dict[str, Any]
) -> None:
    async with open_house() as house:
        for model in ("small:pirate", "small:int4:pirate"):
            answer = await house.client.post(route, json={"model": model, **body})
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == "small:pirate"
        plain = await house.client.post(route, json={"model": "small", **body})
        assert plain.json()["model"] == "small"
        (worker,) = house.launcher.workers
        asked = [work.adapter.name if work.adapter else None for work in worker.works]
        assert asked == ["pirate", "pirate", None]


@pytest.mark.parametrize(("route", "body"), ROUTES)
@asynchronous
async def test_one_that_is_not_there_is_404_with_those_that_are(
    open_house: Open, route: str, body: dict[str, Any]
) -> None:
    async with open_house() as house:
        answer = await house.client.post(route, json={"model": "small:lazy", **body})
        assert answer.status_code == 404
        assert "it has: formal, pirate" in answer.text
        assert "adapter_not_found" in answer.text
        nonsense = await house.client.post(route, json={"model": "small:a:b", **body})
        assert nonsense.status_code == 400
        assert house.launcher.launches == []


@asynchronous
async def test_what_a_client_keeps_for_one_is_for_it_alone(open_house: Open) -> None:
    async with open_house() as house:
        kept = {"model": "small:pirate", "max_length": 7}
        assert (await house.client.post("/api/v0/params", json=kept)).status_code == 200
        for model in ("small:pirate", "small:int4:pirate", "small:formal", "small"):
            await house.client.post("/v1/completions", json={"model": model, **PROMPT})
        lengths = [work.params.max_length for work in house.launcher.workers[0].works]
        assert lengths[:2] == [7, 7]
        assert 7 not in lengths[2:]


@asynchronous
async def test_metrics_know_the_checkpoint_and_stats_the_adapter(open_house: Open) -> None:
    async with open_house() as house:
        await house.client.post("/v1/completions", json={"model": "small:pirate", **PROMPT})
        stats = (await house.client.get("/api/v0/stats")).json()
        assert stats["model"] == "small:pirate"
        await house.client.post("/v1/completions", json={"model": "small:lazy", **PROMPT})
        metrics = (await house.client.get("/metrics")).text
        counted = [line for line in metrics.splitlines() if line.endswith(" 1")]
        requests = [line for line in counted if line.startswith("lemonade_requests_total")]
        assert [re.findall('(?:model|outcome)="([^"]*)"', line) for line in requests] == [
            ["small", "error"],
            ["small", "ok"],
        ]
        assert "pirate" not in metrics
