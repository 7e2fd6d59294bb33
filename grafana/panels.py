"""How the panels look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#808080"


class Target:
    """One query of a panel."""

    def __init__(self, expression: str, legend: str = "", *, format: str = "time_series") -> None:
        self._expression = expression
        self._legend = legend
        self._format = format

    def json(self, ref: str, *, instant: bool) -> Json:
        return {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": self._expression,
            "format": self._format,
            "instant": instant,
            "legendFormat": self._legend or "__auto",
            "range": not instant,
            "refId": ref,
        }


class Panel:
    """A panel before it has its place; `steps` are thresholds, each from its value on."""

    def __init__(
        self,
        title: str,
        description: str,
        *targets: Target,
        unit: str,
        width: int = 8,
        steps: Sequence[tuple[float, str]] = (),
        **more: Any,
    ) -> None:
        self.width = width
        self.height: int = more.pop("height", 8)
        self._title = title
        self._description = description
        self._targets = targets
        self._unit = unit
        self._steps = steps
        self._more = more

    kind = "timeseries"
    instant = False

    def options(self) -> Json:
        return {
            "legend": {
                "calcs": ["lastNotNull", "max"],
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def custom(self) -> Json:
        stacked = (
            {"group": "A", "mode": "normal"} if self._more.get("stacked") else {"mode": "none"}
        )
        return {
            "drawStyle": self._more.get("style", "line"),
            "fillOpacity": 30 if self._more.get("stacked") else 10,
            "lineWidth": 1,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": stacked,
            "thresholdsStyle": {"mode": "dashed" if self._steps else "off"},
        }

    def json(self, number: int, x: int, y: int) -> Json:
        colour = {"mode": "thresholds" if self._steps and self.instant else "palette-classic"}
        steps: list[Json] = [{"color": GREEN, "value": None}]
        steps += [{"color": colour, "value": value} for value, colour in self._steps]
        defaults: Json = {
            "color": colour,
            "custom": self.custom(),
            "mappings": self._more.get("mappings", []),
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": steps},
            "unit": self._unit,
        }
        if "max" in self._more:
            defaults["max"] = self._more["max"]
        targets = [
            target.json(chr(ord("A") + n), instant=self.instant)
            for n, target in enumerate(self._targets)
        ]
        return {
            "datasource": SOURCE,
            "description": self._description,
            "fieldConfig": {"defaults": defaults, "overrides": self._more.get("overrides", [])},
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "id": number,
            "options": self.options(),
            "targets": targets,
            "title": self._title,
            "transformations": self._more.get("transformations", []),
            "type": self.kind,
        }


class Stat(Panel):
    kind = "stat"
    instant = True

    def options(self) -> Json:
        return {
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showPercentChange": False,
            "textMode": self._more.get("text", "value_and_name"),
            "wideLayout": True,
        }

    def custom(self) -> Json:
        return {}


class HeatMap(Panel):
    """Of a histogram: how many observations came into which bucket, in each step."""

    kind = "heatmap"

    def options(self) -> Json:
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "exponent": 0.5,
                "fill": "dark-orange",
                "mode": "scheme",
                "reverse": False,
                "scale": "exponential",
                "scheme": "Oranges",
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": self._unit},
        }

    def custom(self) -> Json:
        return {"scaleDistribution": {"type": "linear"}}


class StateTimeline(Panel):
    kind = "state-timeline"

    def options(self) -> Json:
        return {
            "alignValue": "left",
            "legend": {
                "calcs": [],
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
            },
            "mergeValues": True,
            "rowHeight": 0.9,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        }

    def custom(self) -> Json:
        return {"fillOpacity": 70, "lineWidth": 0}


class Table(Panel):
    kind = "table"
    instant = True

    def options(self) -> Json:
        return {"cellHeight": "sm", "frameIndex": 0, "showHeader": True}

    def custom(self) -> Json:
        return {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}


def word(text: str, colour: str) -> Json:
    return {"color": colour, "text": text}


def joined(*names: str) -> Json:
    """A table of one row a model, whose columns have these names, one a target."""
    values = {f"Value #{chr(ord('A') + n)}": name for n, name in enumerate(names)}
    organised = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": values}
    return {
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": organised},
        ]
    }
