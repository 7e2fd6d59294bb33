"""What the daemon says of itself, as it is settled (docs/api.md): /models, /health and /stats.

That a look at /health changes nothing is in test_specification.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lemonade_serve import __version__
from tests.acceptance.calls import complete, load
from tests.daemon import MODEL, Daemon
from tests.gallery import BASE, GUEST, PAIR, TWIN, Gallery

ACTIVITY = ("is_busy", "is_streaming", "requests_running", "requests_waiting")
STORY = {"model": MODEL, "prompt": "Once upon a time", "max_length": 500, "ignore_eos": True}


@pytest.fixture(scope="module")
def other_house(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The same devices in the other order; nobody asks for a completion here."""
    settings = {
        "LEMONADE_CACHE_DIR": str(cache_dir),
        "LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER": "cpu",
        "LEMONADE_DEVICES__ORDER": "cpu:npu",
    }
    with Daemon.start(tmp_path_factory.mktemp("other"), settings) as daemon:
        yield daemon


def listed(answer: httpx.Response) -> set[tuple[str, str]]:
    """Checkpoints and their dtypes."""
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"data"}
    models = answer.json()["data"]
    assert all(set(model) == {"checkpoint", "device", "dtype"} for model in models)
    return {(model["checkpoint"], model["dtype"]) for model in models}


def test_models_are_listed_for_both_verbs_with_or_without_a_body(
    house: Daemon, gallery: Gallery
) -> None:
    ask, path = house.client.request, "/api/v0/models"
    own = listed(ask("GET", path))
    assert {(MODEL, "int8"), (PAIR, "int4"), (PAIR, "int8")} <= own
    assert listed(ask("POST", path)) == listed(ask("POST", path, json={})) == own
    where = {"cache_dir": str(gallery.elsewhere)}
    for answer in (
        ask("GET", path, params=where),
        ask("GET", path, json=where),
        ask("GET", path, params=where, json=where),
        ask("POST", path, json=where),
    ):
        assert listed(answer) == {(GUEST, "int8")}
    twice = ask("GET", path, params=where, json={"cache_dir": str(gallery.root)})
    assert (twice.status_code, twice.json()["code"]) == (400, "invalid_request_error")
    assert "cache_dir" in twice.json()["message"]


def test_the_order_of_the_devices_is_the_settings(other_house: Daemon) -> None:
    (model,) = other_house.client.get("/api/v0/models").json()["data"]
    assert model["device"] == "cpu"
    assert load(other_house, MODEL).endswith("on cpu")


def test_health_says_all_that_is_settled(daemon: Daemon) -> None:
    nothing = daemon.health()
    assert (nothing["model_loaded"], nothing["all_models_loaded"]) == (None, [])
    since = time.time()
    load(daemon, TWIN, device="cpu")
    assert daemon.client.post("/api/v0/pin", json={"model": MODEL}).status_code == 200
    events = daemon.events("/api/v0/completions", STORY)
    next(events)
    health = daemon.health()
    events.close()
    assert daemon.client.post("/api/v0/unpin").status_code == 200
    assert set(health) == {
        *("status", "model_loaded", "all_models_loaded", "devices", "unusable_devices"),
        *("max_models", "version"),
    }
    assert (health["status"], health["model_loaded"]) == ("ok", MODEL)
    assert health["max_models"] == {"npu": 1, "cpu": 4}
    assert health["version"] == __version__
    assert [room["device"] for room in health["devices"]] == ["npu", "cpu"]
    assert {room["execution_provider"] for room in health["devices"]} == {"cpu"}
    busy, idle = health["all_models_loaded"]
    assert (busy["model_name"], busy["device"], busy["pinned"]) == (MODEL, "npu", True)
    assert (idle["model_name"], idle["device"], idle["pinned"]) == (TWIN, "cpu", False)
    assert [busy[name] for name in ACTIVITY] == [True, True, 1, 0]
    assert [idle[name] for name in ACTIVITY] == [False, False, 0, 0]
    pids = {worker.pid for worker in daemon.workers()}
    for model in (busy, idle):
        assert set(model) == {
            *("model_name", "checkpoint", "device", "dtype", "state", "pinned"),
            *("engine", "engine_reason", "memory_bytes", "last_use", "pid", *ACTIVITY),
        }
        assert (model["dtype"], model["state"]) == ("int8", "resident")
        assert since - 1 < model["last_use"] < time.time() + 1
        assert model["memory_bytes"] > 50_000_000
        assert model["pid"] in pids
        assert model["checkpoint"].startswith("/")
        assert model["engine"]
        assert model["engine_reason"]


def test_before_the_first_request_all_stats_are_null(other_house: Daemon) -> None:
    load(other_house, MODEL)
    assert other_house.client.get("/api/v0/stats").json() == dict.fromkeys(
        (
            *("time_to_first_token", "tokens_per_second", "input_tokens", "output_tokens"),
            *("decode_token_times", "model", "device"),
        )
    )


def test_stats_are_those_of_the_last_request_of_any_model_or_of_one(house: Daemon) -> None:
    def stats(**query: str) -> tuple[Any, ...]:
        answer = house.client.get("/api/v0/stats", params=query)
        assert answer.status_code == 200
        body = answer.json()
        gaps = body["decode_token_times"]
        if gaps:
            assert body["time_to_first_token"] > 0
            assert body["tokens_per_second"] == pytest.approx(len(gaps) / sum(gaps))
        return body["model"], body["device"], body["output_tokens"], gaps and len(gaps)

    said = {"device": "cpu", "ignore_eos": True}
    assert complete(house, model=MODEL, max_length=4, **said).status_code == 200
    assert complete(house, model=TWIN, max_length=3, **said).status_code == 200
    assert complete(house, model=TWIN, max_length=0).status_code == 400
    assert stats() == stats(model=TWIN) == (TWIN, "cpu", 3, 2)
    assert stats(model=MODEL) == (MODEL, "cpu", 4, 3)
    assert stats(model=BASE) == (None, None, None, None)


def test_whoever_has_read_the_last_event_finds_its_stats(house: Daemon) -> None:
    for tokens in (2, 3, 4, 5, 6):
        body = {"model": MODEL, "prompt": "Hi", "max_length": tokens, "ignore_eos": True}
        with house.client.stream(
            "POST", "/api/v0/completions", json={**body, "stream": True}
        ) as response:
            for line in response.iter_lines():
                if "finish_reason" in line:
                    break
            stats = house.client.get("/api/v0/stats").json()
        usage = json.loads(line.removeprefix("data: "))["usage"]
        assert stats["output_tokens"] == usage["completion_tokens"] == tokens
        assert stats["input_tokens"] == usage["prompt_tokens"]
        assert len(stats["decode_token_times"]) == tokens - 1
