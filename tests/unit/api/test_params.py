"""`/api/v0/params`: what a client keeps, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from lemonade_serve.domain.clients import KEPT
from lemonade_serve.settings import Options
from tests.fakes import asynchronous
from tests.unit.api.conftest import House, Open

PATH = "/api/v0/params"
SPECIFICATION = {
    "temperature": 0.7,
    "top_p": 0.95,
    "top_k": 50,
    "min_p": 0.0,
    "min_length": 0,
    "max_length": 2048,
    "do_sample": True,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": None,
    "stop": [],
}


def named(client: str) -> dict[str, str]:
    return {"X-Client-Id": client}


async def kept(house: House, client: str = "default", model: str | None = None) -> dict[str, Any]:
    query = {"model": model} if model else {}
    answer = await house.client.get(PATH, headers=named(client), params=query)
    assert answer.status_code == 200, answer.text
    params: dict[str, Any] = answer.json()["params"]
    return params


@asynchronous
async def test_the_answer_is_the_specifications_with_all_that_is_in_force(
    open_house: Open,
) -> None:
    async with open_house(parameters=Options(top_k=7)) as house:
        body = {"temperature": 0.8, "top_p": 0.9, "max_length": 1000, "stop": "end"}
        answer = await house.client.post(PATH, json=body)
        assert answer.json() == {
            "status": "success",
            "message": "Generation parameters set successfully",
            "params": {**SPECIFICATION, **body, "top_k": 7, "stop": ["end"]},
        }


@asynchronous
async def test_setting_nothing_says_what_is_in_force_and_keeps_nothing(open_house: Open) -> None:
    async with open_house() as house:
        answer = await house.client.post(PATH, json={})
        assert answer.json()["params"] == SPECIFICATION
        shown = (await house.client.get(PATH)).json()
        assert set(shown["sources"].values()) == {"default"}


@asynchronous
async def test_a_value_is_shown_with_where_it_came_from(open_house: Open) -> None:
    async with open_house(parameters=Options(top_p=0.5)) as house:
        await house.client.post(PATH, json={"top_k": 8})
        await house.client.post(PATH, json={"model": "small", "seed": 4})
        shown = (await house.client.get(PATH, params={"model": "small"})).json()
        assert (shown["status"], shown["model"]) == ("success", "small")
        assert set(shown["params"]) == set(shown["sources"]) == set(KEPT)
        values = {n: (shown["params"][n], shown["sources"][n]) for n in ("top_p", "top_k", "seed")}
        assert values == {"top_p": (0.5, "settings"), "top_k": (8, "client"), "seed": (4, "model")}
        assert shown["sources"]["temperature"] == "default"


@asynchronous
async def test_null_puts_a_field_back_and_what_is_left_out_stays(open_house: Open) -> None:
    async with open_house() as house:
        await house.client.post(PATH, json={"temperature": 0.1, "top_k": 9})
        answer = await house.client.post(PATH, json={"temperature": None})
        assert answer.json()["params"] == {**SPECIFICATION, "top_k": 9}


@asynchronous
async def test_two_clients_never_see_or_change_each_others(open_house: Open) -> None:
    async with open_house() as house:
        await house.client.post(PATH, json={"top_k": 1}, headers=named("a"))
        await house.client.post(PATH, json={"top_k": 2}, headers=named("b"))
        await house.client.delete(PATH, headers=named("b"))
        found = [(await kept(house, client))["top_k"] for client in ("a", "b", "default")]
        assert found == [1, 50, 50]


@asynchronous
async def test_forgetting_takes_what_it_names(open_house: Open) -> None:
    async with open_house() as house:
        await house.client.post(PATH, json={"top_k": 1})
        await house.client.post(PATH, json={"model": "small", "top_k": 2})
        answer = await house.client.delete(PATH, params={"model": "small"})
        assert (answer.status_code, answer.json()["status"]) == (200, "success")
        assert (await kept(house, model="small"))["top_k"] == 1
        await house.client.delete(PATH)
        assert (await kept(house))["top_k"] == 50


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1001}, "top_k"),
        ({"min_length": -1}, "min_length"),
        ({"max_length": 0}, "max_length"),
        ({"do_sample": 1}, "do_sample"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 2.1}, "repetition_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"min_length": 11, "max_length": 10}, "min_length"),
        ({"min_length": 2049}, "min_length"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(
    open_house: Open, body: dict[str, Any], names: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.post(PATH, json={"top_k": 3, **body})
            assert (answer.status_code, answer.json()["status"]) == (400, "error")
            assert names in answer.json()["message"]
            assert await kept(house) == SPECIFICATION

    ask()


@pytest.mark.parametrize(
    ("model", "status"), [("nobody", 404), ("../etc", 400), ("", 400), ("small", 200)]
)
def test_only_models_that_are_there_have_parameters(
    open_house: Open, model: str, status: int
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            written = await house.client.post(PATH, json={"model": model, "top_k": 1})
            read = await house.client.get(PATH, params={"model": model})
            assert (written.status_code, read.status_code) == (status, status)

    ask()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v0/completions", {"prompt": "x"}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_they_are_under_every_request_of_their_client(
    open_house: Open, path: str, body: dict[str, Any]
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            keep = {"max_length": 2, "seed": 5, "min_p": 0.1, "presence_penalty": 1}
            await house.client.post(PATH, json=keep, headers=named("a"))
            request = {"model": "small", "temperature": 0.3, **body}
            await house.client.post(path, json=request, headers=named("a"))
            (worker,) = house.launcher.workers
            (params,) = worker.params
            assert (params.max_length, params.seed, params.temperature) == (2, 5, 0.3)
            assert (params.min_p, params.presence_penalty) == (0.1, 1)

    ask()


@asynchronous
async def test_a_keys_client_is_its_own_whoever_names_it(open_house: Open) -> None:
    keys = {"ali": "key-1", "bob": "key-2"}
    async with open_house(api_keys=keys) as house:
        ali, bob = ({"Authorization": f"Bearer {key}"} for key in keys.values())
        await house.client.post(PATH, json={"top_k": 1}, headers=ali)
        await house.client.post(PATH, json={"top_k": 2}, headers={**bob, **named("ali")})
        answers = [
            await house.client.get(PATH, headers=headers)
            for headers in (ali, bob, {**bob, **named("ali")}, {**ali, **named("ali")})
        ]
        assert [answer.json()["params"]["top_k"] for answer in answers] == [1, 50, 2, 50]
