"""Pins, and how long a model stays: a caller's word on residency."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lemonade_serve.domain.device import Device as Where
from lemonade_serve.settings import Device, Devices, Pool
from tests.fakes import DEADLINE_S, asynchronous, checkpoint, until
from tests.unit.api.conftest import House, Open


async def loaded(house: House) -> dict[str, bool]:
    """The models that are in memory or on their way, and whether each is pinned."""
    health = (await house.client.get("/api/v0/health")).json()
    return {model["model_name"]: model["pinned"] for model in health["all_models_loaded"]}


@asynchronous
async def test_a_pin_loads_and_an_unpin_leaves_in_memory(open_house: Open) -> None:
    async with open_house() as house:
        pinned = await house.client.post("/api/v0/pin", json={"model": "small"})
        assert pinned.json() == {
            "status": "success",
            "message": "Model pinned successfully: small in int4 on cpu",
        }
        assert await loaded(house) == {"small": True}
        unpinned = await house.client.post("/api/v0/unpin")
        assert unpinned.json()["message"] == "Model unpinned successfully"
        assert await loaded(house) == {"small": False}


@asynchronous
async def test_an_unpin_takes_what_it_names(open_house: Open) -> None:
    async with open_house() as house:
        for model in ("small", "org/large"):
            await house.client.post("/api/v0/pin", json={"model": model, "device": "cpu"})
        await house.client.post("/api/v0/unpin", json={"model": "small"})
        assert await loaded(house) == {"small": False, "org/large": True}
        again = await house.client.post("/api/v0/unpin", json={"model": "small", "device": "cpu"})
        assert again.json()["message"] == "No such model was pinned"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"model": "small", "device": "npu"}, 400, "device_unavailable"),
        ({"model": "small", "dtype": "fp32"}, 400, "device_unavailable"),
        ({"model": "small", "cache_dir": "/etc"}, 400, "invalid_request_error"),
        ({}, 400, "invalid_request_error"),
    ],
)
def test_a_pin_that_cannot_be_says_why(
    open_house: Open, body: dict[str, Any], status: int, code: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.post("/api/v0/pin", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert house.launcher.launches == []

    ask()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v0/load", {}),
        ("/api/v0/completions", {"prompt": "x", "max_length": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_a_model_that_need_not_be_kept_goes_when_it_is_idle(
    open_house: Open, path: str, body: dict[str, Any]
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.post(path, json={"model": "small", "keep_alive": 0, **body})
            assert answer.status_code == 200
            (worker,) = house.launcher.workers
            await worker.exited
            assert await loaded(house) == {}

    ask()


@pytest.mark.parametrize("keep_alive", ["5m", "-1", 300, -1])
def test_a_model_that_is_to_be_kept_stays(open_house: Open, keep_alive: float | str) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            body = {"model": "small", "keep_alive": keep_alive}
            for answer in (
                await house.client.post("/api/v0/load", json=body),
                await house.client.get("/api/v0/load", params=body),
            ):
                assert answer.status_code == 200
            assert await loaded(house) == {"small": False}

    ask()


@pytest.mark.parametrize("keep_alive", ["soon", "5 m", "", True, 1e10])
def test_a_keep_alive_that_is_none_is_named(open_house: Open, keep_alive: object) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            body: dict[str, Any] = {"model": "small", "keep_alive": keep_alive}
            answers = [
                await house.client.post("/api/v0/load", json=body),
                await house.client.post("/api/v0/completions", json={"prompt": "x", **body}),
            ]
            if isinstance(keep_alive, str):
                answers.append(await house.client.get("/api/v0/load", params=body))
            for answer in answers:
                assert (answer.status_code, answer.json()["status"]) == (400, "error")
                assert "keep_alive" in answer.json()["message"]
            openai = await house.client.post("/v1/completions", json={"prompt": "x", **body})
            assert openai.json()["error"]["param"] == "keep_alive"
            assert house.launcher.launches == []

    ask()


@pytest.mark.parametrize("path", ["load", "unload", "params", "models"])
def test_options_knows_every_verb_of_a_path(open_house: Open, path: str) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.options(f"/api/v0/{path}")
            allowed = set(answer.headers["allow"].split(", "))
            assert {"GET", "POST", "OPTIONS"} <= allowed
            assert ("DELETE" in allowed) == (path in ("params", "models"))

    ask()


@asynchronous
async def test_a_load_ends_with_the_daemon(open_house: Open) -> None:
    async with open_house() as house:
        house.launcher.hold()
        loading = asyncio.create_task(house.client.get("/api/v0/load", params={"model": "small"}))
        await house.launcher.launching.wait()
        await house.application.cut()
        answer = await loading
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert house.launcher.cancelled == 1


@asynchronous
async def test_a_load_that_its_client_left_does_not_begin(open_house: Open) -> None:
    cpu = Device(execution_provider="cpu", max_models=1)
    async with open_house(devices=Devices(cpu=cpu), pool=Pool(max_wait_s=1e6)) as house:
        async with asyncio.timeout(DEADLINE_S):
            lease = house.application.pool.acquire(checkpoint("busy"), [Where.CPU])
            await lease.worker()
            gone = asyncio.Event()
            loading = asyncio.create_task(_get_until(gone, house, "/api/v0/load", b"model=small"))
            await until(lambda: len(house.application.pool.slots()) == 2)
            gone.set()
            assert await loading == 499
            assert [view.model for view in house.application.pool.slots()] == ["busy"]
            lease.release()


async def _get_until(gone: asyncio.Event, house: House, path: str, query: bytes) -> int:
    """The status of a request whose client leaves then."""
    statuses: list[int] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [],
        "scheme": "http",
        "server": None,
        "client": None,
        "root_path": "",
        "http_version": "1.1",
        "extensions": {},
    }

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    await house.application.asgi(scope, receive, send)  # type: ignore[arg-type]
    return statuses[0]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/api/v0/unload"),
        ("GET", "/api/v0/load?model=small"),
        ("DELETE", "/api/v0/params"),
        ("GET", "/v1/models"),
    ],
)
def test_a_body_where_none_is_taken_is_not_ignored(open_house: Open, verb: str, path: str) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.request(verb, path, json={"model": "small"})
            assert answer.status_code == 400
            assert "in the query" in answer.text
            assert house.launcher.launches == []

    ask()


@asynchronous
async def test_a_parameter_said_twice_is_refused(open_house: Open) -> None:
    async with open_house() as house:
        answer = await house.client.get("/api/v0/load?model=small&model=other")
        assert (answer.status_code, answer.json()["message"]) == (
            400,
            "model is given more than once",
        )
