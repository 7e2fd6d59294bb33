"""Statistics and listings: what may be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes import asynchronous
from tests.unit.api.conftest import Open
from tests.unit.hub.graphs import put

STATS = "/api/v0/stats"
MODELS = "/api/v0/models"
LISTED = [
    {"checkpoint": "org/large", "device": "cpu", "dtype": "fp32"},
    {"checkpoint": "small", "device": "cpu", "dtype": "int4"},
]


@asynchronous
async def test_before_the_first_request_there_is_nothing_to_say(open_house: Open) -> None:
    async with open_house() as house:
        for query in ({}, {"model": "small"}):
            assert (await house.client.get(STATS, params=query)).json() == {
                "time_to_first_token": None,
                "tokens_per_second": None,
                "input_tokens": None,
                "output_tokens": None,
                "decode_token_times": None,
                "model": None,
                "device": None,
            }


@asynchronous
async def test_the_request_that_finished_last_is_told_of_all_models_or_one(
    open_house: Open,
) -> None:
    async with open_house() as house:
        for model, words in (("small", "a b c"), ("org/large", "d")):
            body = {"model": model, "prompt": words, "max_length": 4}
            await house.client.post("/api/v0/completions", json=body)
        last = (await house.client.get(STATS)).json()
        assert (last["model"], last["device"]) == ("org/large", "cpu")
        assert (last["input_tokens"], last["output_tokens"]) == (1, 4)
        assert len(last["decode_token_times"]) == 3
        assert last["time_to_first_token"] > 0
        assert last["tokens_per_second"] > 0
        small = (await house.client.get(STATS, params={"model": "small"})).json()
        assert (small["model"], small["input_tokens"]) == ("small", 3)


@asynchronous
async def test_a_parameter_that_a_report_does_not_know_is_refused_by_name(
    open_house: Open,
) -> None:
    async with open_house() as house:
        for path in (STATS, MODELS, "/api/v0/health", "/api/v0/params"):
            answer = await house.client.get(path, params={"modle": "x"})
            assert answer.status_code == 400
            assert "'modle'" in answer.json()["message"]


@pytest.mark.parametrize(
    ("verb", "body"),
    [("GET", None), ("GET", {}), ("POST", None), ("POST", {}), ("POST", {"cache_dir": None})],
)
def test_what_is_on_disk_is_listed_by_either_verb(
    open_house: Open, verb: str, body: dict[str, Any] | None
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.request(verb, MODELS, json=body)
            assert answer.json() == {"data": LISTED}
            assert house.launcher.launches == []

    ask()


@asynchronous
async def test_a_directory_comes_by_query_or_by_body(open_house: Open, tmp_path: Path) -> None:
    other = tmp_path / "other" / "deep"
    put(other / "else" / "int8")
    async with open_house(cache_roots=(str(other.parent),)) as house:
        said = {"cache_dir": str(other)}
        answers = [
            await house.client.get(MODELS, params=said),
            await house.client.request("GET", MODELS, json=said),
            await house.client.request("GET", MODELS, json=said, params=said),
            await house.client.post(MODELS, json=said),
        ]
        for answer in answers:
            assert [c["checkpoint"] for c in answer.json()["data"]] == ["else"]


@asynchronous
async def test_two_directories_at_once_are_refused(open_house: Open) -> None:
    async with open_house() as house:
        body, query = {"cache_dir": "/a"}, {"cache_dir": "/b"}
        answer = await house.client.request("GET", MODELS, json=body, params=query)
        assert answer.status_code == 400
        assert "cache_dir" in answer.json()["message"]


@pytest.mark.parametrize("directory", ["/etc", "..", "small/../../.."])
@pytest.mark.parametrize("how", ["query", "body", "post"])
def test_a_directory_outside_the_roots_is_forbidden(
    open_house: Open, directory: str, how: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            said = {"cache_dir": directory}
            if how == "query":
                answer = await house.client.get(MODELS, params=said)
            else:
                verb = "GET" if how == "body" else "POST"
                answer = await house.client.request(verb, MODELS, json=said)
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_error")

    ask()


@pytest.mark.parametrize("verb", ["GET", "POST"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"cache_dir": "/x",}', "trailing comma"),
        (b"{", "JSON is malformed"),
        (b"\xff", "JSON is malformed"),
        (b"[1]", "object"),
        (b'{"cache_dri": "/x"}', "'cache_dri'"),
        (b'{"cache_dir": 5}', "cache_dir"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_by_either_verb(
    open_house: Open, verb: str, content: bytes, says: str
) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            answer = await house.client.request(verb, MODELS, content=content)
            assert answer.status_code == 400
            assert says in answer.json()["message"]

    ask()
