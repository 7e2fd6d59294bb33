"""Random JSON Schemas, always the same for a seed.

What they allow is bounded, but for a few of them: small models go on for as long as they may.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_WORDS = (
    "name",
    "city",
    "age",
    "tags",
    "size",
    "kind",
    "total",
    "café",
    "owner",
    "note",
    "id",
    "up",
)
_CHOICES = ("red", "green", "blue", "small", "large", "日本", 'with "quotes"', "1", "yes", "no")
_PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^(on|off)$", "^[a-z]{3,8}$", r"^\d{4}\.\d$", "^[^x]{1,6}$")
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "ipv6")

_EXTRAS: tuple[Callable[[random.Random], Schema], ...] = (
    lambda _: {"type": "array", "items": {"type": "boolean"}, "maxItems": 2, "uniqueItems": True},
    lambda _: {"type": "string", "maxLength": 8, "not": {"const": "no"}},
    lambda _: {"type": "array", "contains": {"const": 1}, "maxItems": 2},
    lambda _: {"type": "object", "propertyNames": {"maxLength": 4}, "maxProperties": 1},
    lambda _: {"type": "string", "pattern": "^(?=a)[a-z]{3}$"},
    lambda _: {"type": "string", "format": "iri"},
    lambda _: {"if": {"const": 1}, "then": {"type": "integer"}, "else": {"const": 2}},
    lambda _: {"type": "object", "dependentRequired": {"a": ["b"]}, "maxProperties": 1},
)
"""What cannot be enforced, one keyword each."""

UNENFORCEABLE = (
    "uniqueItems",
    "not",
    "contains",
    "propertyNames",
    "pattern",
    "format",
    "if",
    "dependentRequired",
)
"""Those keywords."""


def random_schemas(count: int, *, seed: int) -> list[Schema]:
    """Objects, mostly; about one in ten has something that cannot be enforced."""
    return [_Maker(random.Random(f"{seed}-{n}")).whole() for n in range(count)]  # noqa: S311


class _Maker:
    """Makes one schema."""

    def __init__(self, luck: random.Random) -> None:
        self._luck = luck
        self._definitions: dict[str, Schema] = {}

    def whole(self) -> Schema:
        luck = self._luck
        schema = self._object(0) if luck.random() < 0.8 else self._any(0)
        if luck.random() < 0.12:
            extra = luck.choice(_EXTRAS)(luck)
            properties = {"value": schema, "extra": extra}
            schema = {"type": "object", "properties": properties, "required": ["value", "extra"]}
            schema["additionalProperties"] = False
        if self._definitions:
            schema = {**schema, "$defs": self._definitions}
        return schema

    def _any(self, depth: int) -> Schema:
        leaves = (
            self._string,
            self._pattern,
            self._format,
            self._integer,
            self._number,
            self._enum,
            self._const,
            self._plain,
        )
        if depth >= 3 or self._luck.random() < 0.55:
            return self._luck.choice(leaves)()
        inner = (self._object, self._object, self._array, self._any_of, self._reference)
        return self._luck.choice(inner)(depth + 1)

    def _object(self, depth: int) -> Schema:
        luck = self._luck
        names = luck.sample(_WORDS, luck.randint(1, 4 if depth == 0 else 3))
        schema: Schema = {"type": "object", "properties": {n: self._any(depth + 1) for n in names}}
        if luck.random() < 0.85:
            schema["required"] = luck.sample(names, luck.randint(1, len(names)))
        if luck.random() < 0.98:
            schema["additionalProperties"] = False
        return schema

    def _array(self, depth: int) -> Schema:
        least = self._luck.randint(0, 2)
        most = least + self._luck.randint(0, 2)
        bounds = {"minItems": least, "maxItems": most}
        if self._luck.random() < 0.2:
            pair = [self._any(depth + 1), self._any(depth + 1)]
            return {"type": "array", "prefixItems": pair, "items": False, "minItems": 2}
        return {"type": "array", "items": self._any(depth + 1), **bounds}

    def _any_of(self, depth: int) -> Schema:
        return {"anyOf": [self._any(depth + 1) for _ in range(self._luck.randint(2, 3))]}

    def _reference(self, depth: int) -> Schema:
        name = f"d{len(self._definitions)}"
        self._definitions[name] = {}  # so that it may be referred to from within
        made = self._any(max(depth + 1, 2))
        if self._luck.random() < 0.15:
            again = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{name}"}]}
            properties = {"value": made, "next": again}
            made = {"type": "object", "properties": properties, "required": ["value"]}
            made["additionalProperties"] = False
        self._definitions[name] = made
        return {"$ref": f"#/$defs/{name}"}

    def _string(self) -> Schema:
        least = self._luck.randint(0, 4)
        return {
            "type": "string",
            "minLength": least,
            "maxLength": least + self._luck.randint(0, 12),
        }

    def _pattern(self) -> Schema:
        return {"type": "string", "pattern": self._luck.choice(_PATTERNS)}

    def _format(self) -> Schema:
        format = self._luck.choice(_FORMATS)
        bounds = {"maxLength": 36} if "time" in format else {}  # a second has any fraction
        return {"type": "string", "format": format, **bounds}

    def _integer(self) -> Schema:
        least = self._luck.randint(-1000, 1000)
        schema: Schema = {"type": "integer"}
        low, high = self._luck.choice((("minimum", "maximum"), ("minimum", "exclusiveMaximum")))
        return {**schema, low: least, high: least + self._luck.randint(1, 5000)}

    def _number(self) -> Schema:
        least = round(self._luck.uniform(-10, 10), 1)
        most = round(least + self._luck.uniform(0.5, 100), 1)
        bounds = {"type": "number", "minimum": least, "maximum": most}
        return {**bounds, "multipleOf": 0.01} if self._luck.random() < 0.95 else bounds

    def _enum(self) -> Schema:
        some = self._luck.sample(_CHOICES, self._luck.randint(1, 5))
        return {"enum": [*some, *self._luck.choice(([], [None], [1, 2.5], [True]))]}

    def _const(self) -> Schema:
        return {"const": self._luck.choice(("fixed", 7, None, True, ["a", 1], {"a": {"b": []}}))}

    def _plain(self) -> Schema:
        return {"type": self._luck.choice(("boolean", "null", ["boolean", "null"]))}
