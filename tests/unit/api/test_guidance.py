"""What an answer has to be, from OpenAI's words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from lemonade_serve import errors
from lemonade_serve.api.guidance import JsonObject, Schema, Text, guidance_of
from lemonade_serve.api.openai.requests import ChatRequest
from lemonade_serve.domain.completion import Guidance

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_text_may_be_anything() -> None:
    assert guidance_of() is None
    assert guidance_of(None) is None
    assert guidance_of(Text()) is None


@pytest.mark.parametrize("format", [JsonObject(), Schema(name="any")])
def test_what_says_no_more_is_any_object(format: JsonObject | Schema) -> None:
    assert guidance_of(format) == Guidance("json_schema", '{"type":"object"}')


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    schema = {"type": "object", "properties": {name: {} for name in "zebra"}, "required": ["é"]}
    guidance = guidance_of(Schema(name="data", schema=schema, strict=True, description="Data."))
    assert guidance is not None
    assert guidance.kind == "json_schema"
    assert list(json.loads(guidance.grammar)["properties"]) == list("zebra")
    assert json.loads(guidance.grammar) == schema


def test_an_empty_expression_is_one() -> None:
    assert guidance_of(Text(), regex="") == Guidance("regex", "")
    assert guidance_of(grammar='start: "a"') == Guidance("lark", 'start: "a"')


@pytest.mark.parametrize(
    ("ways", "param"),
    [
        ({"regex": "a", "grammar": "b"}, "grammar"),
        ({"format": JsonObject(), "regex": "a"}, "regex"),
        ({"format": Schema(name="a"), "grammar": "b"}, "grammar"),
        ({"format": JsonObject(), "regex": "a", "grammar": "b"}, "grammar"),
    ],
)
def test_an_answer_cannot_be_two_things(ways: dict[str, Any], param: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="one form") as raised:
        guidance_of(**ways)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "format",
    [
        {},
        {"type": "yaml"},
        {"type": "text", "schema": {}},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "not a name"}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": True}},
        {"type": "json_schema", "json_schema": {"name": "a", "type": "json_schema"}},
        {"type": "json_schema", "name": "a", "schema": {}},
    ],
)
def test_a_format_that_openai_does_not_know_is_refused(format: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"messages": MESSAGES, "response_format": format}, ChatRequest)
