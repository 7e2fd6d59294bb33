"""What of a JSON Schema is refused before it is compiled: llguidance would not keep to it, or would
compile for minutes, and memory without end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from math import prod
from typing import Any, Final

MAX_MULTIPLE: Final = 10_000
"""Of `multipleOf`, without the decimal point; of all of them together where they may have to hold
at once. A multiple has as many states: 100,000 take half a second, ten times as many 7 s and 370 MB
(benchmarks/guidance.py)."""

MAX_PATTERNS: Final = 12
"""That may have to hold at once; each may double the work: 16 take 60 ms, 20 take 2 s, 230 MB."""

_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
_COMBINING = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/')


def check_schema(schema: dict[str, Any]) -> None:
    """Raises ValueError, naming the keyword."""
    if "x-guidance" in schema:  # it would loosen what is promised
        raise ValueError('Unimplemented keys: ["x-guidance"]')
    nodes = list(_nodes(schema))
    for node in nodes:
        least = node.get("minProperties")
        if isinstance(least, int) and least > max(1, len(node.get("required", ()))):
            raise ValueError(
                f"minProperties: {least} is more than is required by name; a property said twice "
                "would count twice"
            )
    together = any("allOf" in node for node in nodes)
    multiples = [_digits(node["multipleOf"]) for node in nodes if "multipleOf" in node]
    if (prod(multiples) if together else max(multiples, default=1)) > MAX_MULTIPLE:
        raise ValueError(f"multipleOf: only up to {MAX_MULTIPLE}, all that hold at once multiplied")
    patterns = {
        str(node["pattern"])
        for node in nodes
        if "pattern" in node and (together or not _COMBINING.isdisjoint(node))
    }
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"pattern: at most {MAX_PATTERNS} may hold at once, beside allOf and $ref")


def check_lark(grammar: str) -> None:
    """Raises ValueError for more intersections of terminals than may be compiled."""
    found = _LITERAL.sub("", grammar)
    if found.count("&") + found.count("~") > MAX_PATTERNS:
        raise ValueError(f"only {MAX_PATTERNS} of the operators & and ~ may be in a grammar")


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and all within it, however deep."""
    pending: list[Any] = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            yield node
            for key, value in node.items():
                if key in _NAMES and isinstance(value, dict):
                    pending += value.values()
                elif key not in _VALUES:
                    pending.append(value)


def _digits(multiple: object) -> int:
    """0.05 is 5: what the decimal point does costs nothing."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or multiple <= 0:
        return 1  # llguidance says what is wrong with it
    digits = Decimal(repr(multiple)).normalize().as_tuple()
    return int("".join(map(str, digits.digits)))
