"""The dashboard as Grafana reads it, and what it asks Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[2] / "grafana" / "dashboards" / "lemonade-serve.json"
_FAMILY = re.compile(r"\b(?:lemonade|process|scrape)_\w+|\bup\b")


class Query(NamedTuple):
    """One query: of a panel, or of an annotation."""

    title: str
    ref: str
    expression: str
    format: str

    def families(self) -> set[str]:
        """The names of all series that it reads."""
        return set(_FAMILY.findall(re.sub(r"\{[^}]*\}", "", self.expression)))

    def with_variables(self, values: Mapping[str, str]) -> str:
        """The expression as Grafana sends it; a name that begins like another comes first."""
        expression = self.expression
        for name in sorted(values, reverse=True):
            expression = expression.replace(f"${name}", values[name])
        assert "$" not in expression, expression
        return expression


class Dashboard:
    def __init__(self) -> None:
        self.content: dict[str, Any] = json.loads(FILE.read_bytes())

    def panels(self) -> list[dict[str, Any]]:
        """Without the headings of the rows."""
        return [panel for panel in self.content["panels"] if panel["type"] != "row"]

    def rows(self) -> list[str]:
        return [panel["title"] for panel in self.content["panels"] if panel["type"] == "row"]

    def queries(self) -> Iterator[Query]:
        for panel in self.panels():
            for target in panel["targets"]:
                yield Query(panel["title"], target["refId"], target["expr"], target["format"])

    def annotations(self) -> list[Query]:
        return [
            Query(mark["name"], mark["target"]["refId"], mark["target"]["expr"], "time_series")
            for mark in self.content["annotations"]["list"]
        ]

    def variables(self) -> dict[str, dict[str, Any]]:
        return {variable["name"]: variable for variable in self.content["templating"]["list"]}
