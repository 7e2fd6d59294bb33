"""What of a schema or a grammar is refused before it is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from lemonade_serve.worker.schemas import MAX_PATTERNS, check_lark, check_schema

MANY = [{"pattern": f"[a-m]{{{n}}}"} for n in range(1, MAX_PATTERNS + 2)]


def nested(patterns: list[dict[str, str]]) -> dict[str, Any]:
    """Each beside what the next ones are in."""
    schema: dict[str, Any] = {"type": "string"}
    for pattern in patterns:
        schema = {**pattern, "anyOf": [schema]}
    return schema


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"items": {"minProperties": 3, "required": ["a", "b"]}}, "minProperties"),
        ({"multipleOf": 10_001}, "multipleOf"),
        ({"multipleOf": 0.123457}, "multipleOf"),
        ({"allOf": [{"multipleOf": 101}, {"multipleOf": 103}]}, "multipleOf"),
        ({"allOf": MANY}, "pattern"),
        ({"properties": {"allOf": {"allOf": [{}]}}, "anyOf": MANY}, "pattern"),
        (nested(MANY), "pattern"),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
    ],
)
def test_what_would_not_be_kept_or_never_be_compiled_is_named(
    schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(ValueError, match=keyword):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 1},
        {"minProperties": 2, "required": ["a", "b"]},
        {"multipleOf": 10_000},
        {"multipleOf": 0.01},
        {"multipleOf": "five"},
        {"anyOf": [{"multipleOf": 101}, {"multipleOf": 103}]},
        {"anyOf": MANY},
        {"allOf": MANY[:MAX_PATTERNS]},
        {"enum": [{"minProperties": 9}], "default": {"multipleOf": 99_999}},
        {"properties": {"minProperties": {"type": "integer"}, "multipleOf": {"const": 1}}},
    ],
)
def test_all_else_is_for_the_compiler_to_judge(schema: dict[str, Any]) -> None:
    check_schema(schema)


def test_a_schema_may_be_nested_deeper_than_python_calls() -> None:
    schema: dict[str, Any] = {"minProperties": 2}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(ValueError, match="minProperties"):
        check_schema(schema)


def test_operators_of_a_grammar_are_counted_and_letters_are_not() -> None:
    check_lark('start: A\nA: "' + "&" * 99 + '" | /[&~]+&&&&&&&&&&&&&&/')
    with pytest.raises(ValueError, match="& and ~"):
        check_lark("start: A\nA: " + " & ".join(f"/x{n}/" for n in range(MAX_PATTERNS + 2)))
