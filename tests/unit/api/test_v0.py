"""The Lemonade specification's dialect, in and out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lemonade_serve import __version__, errors
from lemonade_serve.api.errors import show
from lemonade_serve.api.v0.completions import SpecWriter
from lemonade_serve.settings import Device, Devices, Pool
from tests.fakes import asynchronous, until
from tests.unit.api.conftest import House, Open
from tests.unit.api.test_openai import SO_ON, events, streamed


async def health(house: House) -> dict[str, Any]:
    body: dict[str, Any] = (await house.client.get("/api/v0/health")).json()
    return body


def test_a_stream_is_texts_and_a_last_event_with_reason_and_usage() -> None:
    sent = streamed(SpecWriter(), *SO_ON)
    assert sent[:2] == [{"text": "so"}, {"text": " on"}]
    assert sent[2] == {
        "text": "",
        "model": "small",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def test_an_error_in_a_stream_is_the_specifications_error() -> None:
    sent = SpecWriter().error(show(errors.WorkerLost("it died")))
    assert json.loads(sent.removeprefix(b"data: ")) == {
        "status": "error",
        "message": "it died",
        "code": "worker_lost",
    }


@asynchronous
async def test_a_completion_names_its_model_even_when_the_request_did_not(
    open_house: Open,
) -> None:
    async with open_house(default_model="small") as house:
        body = {"prompt": "two words", "max_length": 3}
        answer = await house.client.post("/api/v0/completions", json=body)
        assert answer.json() == {
            "text": "so it goes",
            "model": "small",
            "finish_reason": "length",
            "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
        }


@asynchronous
async def test_a_completion_streams_when_asked(open_house: Open) -> None:
    async with open_house() as house:
        body = {"model": "small", "prompt": "x", "max_length": 2, "stream": True}
        answer = await house.client.post("/api/v0/completions", json=body)
        sent = events(answer.content.replace(b": ping\n\n", b""))
        assert "".join(event["text"] for event in sent) == "so it"
        assert sent[-1]["finish_reason"] == "length"


@asynchronous
async def test_without_any_model_a_completion_is_refused(open_house: Open) -> None:
    async with open_house() as house:
        answer = await house.client.post("/api/v0/completions", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["status"]) == (400, "error")
        assert "no model is named" in answer.json()["message"]


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("dtype", "fp32", 400, "device_unavailable"),
        ("cache_dir", "/etc", 403, "permission_error"),
    ],
)
def test_what_a_completion_says_of_its_checkpoint_counts_without_a_model_too(
    open_house: Open, name: str, value: str, status: int, code: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            await house.client.post("/api/v0/load", json={"model": "small"})
            body = {"prompt": "x", "max_length": 1, name: value}
            answer = await house.client.post("/api/v0/completions", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code)

    ask()


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_load_and_unload_answer_to_both_verbs(open_house: Open, verb: str) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            said = {"model": "org/large", "device": "cpu", "dtype": "fp32"}
            how: dict[str, Any] = {"json": said} if verb == "POST" else {"params": said}
            loaded = await house.client.request(verb, "/api/v0/load", **how)
            assert loaded.json() == {
                "status": "success",
                "message": "Model loaded successfully: org/large in fp32 on cpu",
            }
            assert (await health(house))["model_loaded"] == "org/large"
            unloaded = await house.client.request(verb, "/api/v0/unload")
            assert unloaded.json() == {
                "status": "success",
                "message": "Model unloaded successfully",
            }
            assert (await health(house))["model_loaded"] is None
            assert house.launcher.alive == []

    ask()


@asynchronous
async def test_unloading_what_is_not_loaded_is_success(open_house: Open) -> None:
    async with open_house() as house:
        answer = await house.client.post("/api/v0/unload", json={"model": "small"})
        assert (answer.status_code, answer.json()["status"]) == (200, "success")


@asynchronous
async def test_unload_takes_what_it_names(open_house: Open) -> None:
    async with open_house() as house:
        for model in ("small", "org/large"):
            await house.client.post("/api/v0/load", json={"model": model})
        await house.client.get("/api/v0/unload", params={"model": "small", "force": "true"})
        assert [m["model_name"] for m in (await health(house))["all_models_loaded"]] == [
            "org/large"
        ]


@asynchronous
async def test_an_unload_that_says_what_is_not_known_unloads_nothing(open_house: Open) -> None:
    async with open_house() as house:
        await house.client.post("/api/v0/load", json={"model": "small"})
        by_query = await house.client.get("/api/v0/unload", params={"modle": "x"})
        by_body = await house.client.post("/api/v0/unload", json={"modle": "x"})
        for answer in (by_query, by_body):
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request_error")
            assert "'modle'" in answer.json()["message"]
        assert len((await health(house))["all_models_loaded"]) == 1


@pytest.mark.parametrize("path", ["/api/v0/load?model=small", "/api/v0/unload"])
def test_a_page_of_another_site_changes_nothing(open_house: Open, path: str) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            await house.client.post("/api/v0/load", json={"model": "org/large"})
            answer = await house.client.get(path, headers={"Sec-Fetch-Site": "cross-site"})
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_error")
            assert len((await health(house))["all_models_loaded"]) == 1

    ask()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"model": "small", "device": "npu"}, 400, "device_unavailable"),
        ({"model": "small", "dtype": "fp32"}, 400, "device_unavailable"),
        ({"model": "small", "cache_dir": "/etc"}, 403, "permission_error"),
        ({"model": "small", "colour": "red"}, 400, "invalid_request_error"),
        ({}, 400, "invalid_request_error"),
    ],
)
def test_a_load_that_cannot_be_says_why(
    open_house: Open, body: dict[str, Any], status: int, code: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.post("/api/v0/load", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            answer = await house.client.get("/api/v0/load", params=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert house.launcher.launches == []

    ask()


@asynchronous
async def test_health_of_an_empty_house(open_house: Open) -> None:
    cpu = Device(execution_provider="cpu", memory_budget=1 << 30)
    async with open_house(devices=Devices(cpu=cpu)) as house:
        assert await health(house) == {
            "status": "ok",
            "model_loaded": None,
            "all_models_loaded": [],
            "devices": [
                {
                    "device": "cpu",
                    "execution_provider": "cpu",
                    "max_models": 4,
                    "models": 0,
                    "memory_budget_bytes": 1 << 30,
                    "memory_used_bytes": 0,
                }
            ],
            "unusable_devices": [],
            "max_models": {"cpu": 4},
            "version": __version__,
        }


@asynchronous
async def test_health_says_what_is_resident_and_changes_nothing(open_house: Open) -> None:
    async with open_house() as house:
        await house.client.post("/api/v0/load", json={"model": "small"})
        await house.client.post("/api/v0/load", json={"model": "org/large"})
        first, second = await health(house), await health(house)
        assert first["model_loaded"] == second["model_loaded"] == "org/large"
        model = first["all_models_loaded"][0]
        assert (model["state"], model["engine"], model["pid"]) == ("resident", "fake", 4001)
        assert model["engine_reason"] == "it is a fake"
        assert (model["is_busy"], model["requests_running"]) == (False, 0)
        assert model["memory_bytes"] == 1 << 20
        uses = [[m["last_use"] for m in body["all_models_loaded"]] for body in (first, second)]
        assert uses[0] == pytest.approx(uses[1], abs=0.5)


@asynchronous
async def test_probes_say_alive_and_ready_until_the_drain(open_house: Open) -> None:
    async with open_house() as house:
        await until(lambda: not house.application.readiness.starting)
        for path in ("/livez", "/live", "/readyz"):
            assert (await house.client.get(path)).json() == {"status": "ok"}
        assert await house.application.drain(1)
        assert (await house.client.get("/livez")).status_code == 200
        answer = await house.client.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


@pytest.mark.parametrize("ending", ["loaded", "failed", "draining"])
@asynchronous
async def test_it_is_ready_when_the_models_of_the_start_are_there_or_cannot_be(
    open_house: Open, ending: str
) -> None:
    async with open_house(pool=Pool(preload=("small",))) as house:
        house.launcher.hold()
        await house.launcher.launching.wait()
        answer = await house.client.get("/readyz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"]["code"] == "not_ready"
        assert "still loading" in answer.json()["error"]["message"]
        assert (await house.client.get("/livez")).status_code == 200
        if ending == "failed":
            house.launcher.failure = errors.ModelLoadError("the file is cut")
        if ending == "draining":
            assert await house.application.drain(1)
        house.launcher.go()
        await until(lambda: not house.application.readiness.starting)
        answer = await house.client.get("/readyz")
        if ending == "draining":
            assert answer.json()["error"]["code"] == "draining"
        else:
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
