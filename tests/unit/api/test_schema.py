"""The description: an OpenAPI document and a page of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from lemonade_serve import __version__
from lemonade_serve.settings import Server
from tests.fakes import asynchronous
from tests.unit.api.conftest import Open

Json = dict[str, Any]


async def document(
    open_house: Open, headers: dict[str, str] | None = None, **settings: Any
) -> Json:
    async with open_house(**settings) as house:
        answer = await house.client.get("/schema/openapi.json", headers=headers)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body


def operations(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in described["paths"].items():
        for verb, operation in item.items():
            yield path, verb, operation


@asynchronous
async def test_every_route_is_described_once(open_house: Open) -> None:
    described = await document(open_house)
    assert described["info"]["version"] == __version__
    found = {f"{verb} {path}" for path, verb, _ in operations(described)}
    assert found == {
        "get /livez", "get /live", "get /readyz", "get /metrics", "get /schema",
        "get /schema/openapi.json",
        "post /api/v0/completions", "get /api/v0/load", "post /api/v0/load",
        "get /api/v0/unload", "post /api/v0/unload", "post /api/v0/pin", "post /api/v0/unpin",
        "get /api/v0/params", "post /api/v0/params", "delete /api/v0/params",
        "get /api/v0/health", "get /api/v0/stats", "get /api/v0/models", "post /api/v0/models",
        "delete /api/v0/models", "post /api/v0/pull", "get /api/v0/aliases",
        "post /api/v0/aliases", "delete /api/v0/aliases",
        "post /api/v0/chat/completions",
        *(
            f"{prefix}{route}"
            for route in ("/completions", "/chat/completions")
            for prefix in ("post /v1", "post /api/v1")
        ),
        "post /v2/rerank",
        *(
            f"post {prefix}{route}"
            for route in ("/embeddings", "/rerank")
            for prefix in ("/v1", "/api/v1", "/api/v0")
        ),
        *(
            f"{verb} {prefix}/responses{rest}"
            for verb, rest in (
                ("post", ""),
                ("get", "/{response_id}"),
                ("delete", "/{response_id}"),
                ("get", "/{response_id}/input_items"),
            )
            for prefix in ("/v1", "/api/v1", "/api/v0")
        ),
        *(
            f"{prefix}{route}"
            for route in ("/models", "/models/{model_id}")
            for prefix in ("get /v1", "get /api/v1")
        ),
    }  # fmt: skip
    ids = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(ids)) == len(ids)
    assert {"complete", "create_completion", "create_completion_api_v1"} <= set(ids)


@asynchronous
async def test_every_body_has_examples_that_are_right_by_its_own_schema(open_house: Open) -> None:
    described = await document(open_house)
    seen = 0
    for path, verb, operation in operations(described):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["examples"], f"{verb} {path}"
            schema = {**content["schema"], "components": described["components"]}
            for example in content["examples"].values():
                jsonschema_rs.validate(schema, example["value"])
                seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "x", "temperature": 2.1},
        {"prompt": "x", "top_p": 0},
        {"prompt": "x", "repetition_penalty": 0},
        {"prompt": "x", "colour": "red"},
        {"prompt": "x", "stop": []},
        {"prompt": "x", "keep_alive": "soon"},
    ],
)
def test_a_schema_refuses_what_the_server_refuses(open_house: Open, wrong: Json) -> None:
    @asynchronous
    async def ask() -> None:
        async with open_house() as house:
            described = (await house.client.get("/schema/openapi.json")).json()
            body = described["components"]["schemas"]["CompletionBody"]
            schema = {**body, "components": described["components"]}
            with pytest.raises(jsonschema_rs.ValidationError):
                jsonschema_rs.validate(schema, wrong)
            answer = await house.client.post("/api/v0/completions", json=wrong)
            assert answer.status_code == 400

    ask()


@asynchronous
async def test_every_reference_leads_somewhere(open_house: Open) -> None:
    described = await document(open_house)
    named = set(re.findall(r"'#/components/schemas/(\w+)'", str(described)))
    assert named == set(described["components"]["schemas"])


@asynchronous
async def test_errors_are_described_in_the_dialect_of_the_route(open_house: Open) -> None:
    described = await document(open_house)
    everything = {400, 403, 404, 413, 429, 500, 502, 503, 507}
    hub = {502, 507}
    for verb, path, dialect, statuses in [
        ("post", "/api/v0/completions", "SpecError", everything),
        ("post", "/api/v0/chat/completions", "OpenAIError", everything),
        ("post", "/v1/completions", "OpenAIError", everything),
        ("post", "/api/v0/params", "SpecError", everything - hub),
        ("get", "/api/v0/params", "SpecError", everything - {413, 429} - hub),
        ("get", "/api/v0/load", "SpecError", everything - {413}),
        ("post", "/api/v0/pull", "SpecError", everything),
        ("delete", "/api/v0/models", "SpecError", everything - {413, 429} - hub | {409}),
        ("get", "/v1/models/{model_id}", "OpenAIError", everything - {413, 429} - hub),
        ("post", "/api/v0/responses", "OpenAIError", everything),
        ("delete", "/v1/responses/{response_id}", "OpenAIError", everything - {413, 429} - hub),
        ("post", "/api/v0/embeddings", "OpenAIError", everything),
        ("post", "/v1/rerank", "OpenAIError", everything),
        ("get", "/metrics", "OpenAIError", {400, 403, 500}),
        ("get", "/readyz", "OpenAIError", {503}),
        ("get", "/livez", "OpenAIError", set()),
    ]:
        responses = described["paths"][path][verb]["responses"]
        assert {int(status) for status in responses} == {200, *statuses}
        for status in statuses:
            schema = responses[str(status)]["content"]["application/json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{dialect}"}
            assert ("Retry-After" in responses[str(status)]["headers"]) == (status in (429, 503))


@asynchronous
async def test_streaming_routes_answer_json_or_events(open_house: Open) -> None:
    described = await document(open_house)
    streaming = {
        path
        for path, _, operation in operations(described)
        if set(operation["responses"]["200"]["content"])
        == {"application/json", "text/event-stream"}
    }
    assert streaming == {
        "/api/v0/completions",
        "/api/v0/pull",
        "/v1/completions",
        "/api/v1/completions",
        "/v1/chat/completions",
        "/api/v1/chat/completions",
        "/api/v0/chat/completions",
        "/v1/responses",
        "/api/v1/responses",
        "/api/v0/responses",
    }


@asynchronous
async def test_a_get_may_have_the_body_that_the_specification_gives_it(open_house: Open) -> None:
    described = await document(open_house)
    body = described["paths"]["/api/v0/models"]["get"]["requestBody"]
    assert not body["required"]
    assert body["content"]["application/json"]["schema"] == {
        "anyOf": [{"$ref": "#/components/schemas/ModelsBody"}, {"type": "null"}]
    }


@asynchronous
async def test_a_parameter_of_a_query_says_what_it_may_be(open_house: Open) -> None:
    described = await document(open_house)
    parameters = described["paths"]["/api/v0/load"]["get"]["parameters"]
    by_name = {parameter["name"]: parameter for parameter in parameters}
    assert by_name["model"]["required"]
    assert not by_name["device"]["required"]
    assert by_name["device"]["schema"]["default"] == "hybrid"
    assert by_name["keep_alive"]["schema"]["pattern"]
    assert by_name["X-Client-Id"]["in"] == "header"


@pytest.mark.parametrize("open_metrics", [False, True])
def test_where_a_key_is_needed_the_description_says_so(
    open_house: Open, open_metrics: bool
) -> None:
    @asynchronous
    async def ask() -> None:
        described = await document(
            open_house,
            {"Authorization": "Bearer sesame"},
            api_keys={"ali": "sesame"},
            server=Server(open_metrics=open_metrics),
        )
        open_to_all = {p for p, _, operation in operations(described) if not operation["security"]}
        assert open_to_all == {"/livez", "/live", "/readyz"} | (
            {"/metrics"} if open_metrics else set()
        )
        for path, _, operation in operations(described):
            assert ("401" in operation["responses"]) == (path not in open_to_all)
            assert operation["security"] in ([], [{"key": []}])

    ask()


@asynchronous
async def test_where_none_is_needed_it_may_be_sent(open_house: Open) -> None:
    described = await document(open_house)
    assert described["paths"]["/v1/models"]["get"]["security"] == [{}, {"key": []}]
    assert "401" not in described["paths"]["/v1/models"]["get"]["responses"]


@asynchronous
async def test_the_page_shows_every_route_and_loads_nothing(open_house: Open) -> None:
    async with open_house() as house:
        described = (await house.client.get("/schema/openapi.json")).json()
        answer = await house.client.get("/schema")
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = answer.text
        for path, _, operation in operations(described):
            assert f'<details id="{operation["operationId"]}">' in page
            assert path in page
        for name in described["components"]["schemas"]:
            assert f'<details id="{name}">' in page
        assert not re.search(r"<script|<link|<img|https?://|@import|url\(", page)
        for link in re.findall(r'href="#(\w+)"', page):
            assert f'id="{link}"' in page
