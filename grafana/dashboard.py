"""The rows, the variables and the annotations, put together."""

from __future__ import annotations

from collections.abc import Iterator

from grafana import load, pool, process, service_levels
from grafana.panels import (
    BLUE,
    ORANGE,
    RED,
    SOURCE,
    Json,
)
from grafana.queries import (
    DEVICE,
    INSTANCE,
    MODEL,
)

SCHEMA_VERSION = 42  # of Grafana 12
WIDTH = 24
ROWS = (
    ("Service levels", service_levels.service_levels),
    ("Load", load.load),
    ("Pool", pool.pool),
    ("Process", process.process),
)


def panels() -> Iterator[Json]:
    """From left to right, in lines as high as their highest panel."""
    number = y = 0
    for title, of_row in ROWS:
        number += 1
        yield {
            "collapsed": False,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            "id": number,
            "panels": [],
            "title": title,
            "type": "row",
        }
        x, y, high = 0, y + 1, 0
        for panel in of_row():
            if x + panel.width > WIDTH:
                x, y, high = 0, y + high, 0
            number += 1
            yield panel.json(number, x, y)
            x, high = x + panel.width, max(high, panel.height)
        y += high


def variables() -> Iterator[Json]:
    yield {
        "label": "Data source",
        "name": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "type": "datasource",
    }
    # All instances are those that the daemon has, or the process' families would be everyone's;
    # all devices and models are also those of a request that was turned away before it had one.
    yield _variable("instance", "label_values(lemonade_build_info, instance)", "")
    yield _variable(
        "device", f"label_values(lemonade_device_memory_budget_bytes{{{INSTANCE}}}, device)", ".*"
    )
    yield _variable("model", f"label_values(lemonade_requests_total{{{INSTANCE}}}, model)", ".*")


def _variable(name: str, query: str, everything: str) -> Json:
    return {
        **({"allValue": everything} if everything else {}),
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": SOURCE,
        "includeAll": True,
        "label": name.capitalize(),
        "multi": True,
        "name": name,
        "query": {"qryType": 1, "query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


def marks() -> Iterator[Json]:
    """What a counter gained in a step: exact, where `increase` would guess at the edges."""
    yield _mark(
        "Load", "lemonade_model_loads_total", f'{MODEL}, outcome="ok"', BLUE, "{{model}} loaded"
    )
    yield _mark(
        "Evict",
        "lemonade_model_evictions_total",
        f'{MODEL}, reason=~"lru|ttl|pressure"',
        ORANGE,
        "{{model}} evicted ({{reason}})",
    )
    yield _mark(
        "Restart", "lemonade_worker_restarts_total", DEVICE, RED, "worker restarted ({{reason}})"
    )


def _mark(name: str, family: str, selector: str, colour: str, title: str) -> Json:
    series = f"{family}{{{selector}}}"
    return {
        "datasource": SOURCE,
        "enable": True,
        "iconColor": colour,
        "name": name,
        "tagKeys": "device",
        "target": {
            "expr": f"{series} - {series} offset $__interval > 0",
            "interval": "1m",
            "refId": "Anno",
        },
        "textFormat": "on {{device}} of {{instance}}",
        "titleFormat": title,
    }


def dashboard() -> Json:
    return {
        "annotations": {"list": list(marks())},
        "description": "One or more lemonade-serve daemons: service levels, load, the pool of "
        "models, and the process. Alerts are explained in docs/alerts.md.",
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": list(panels()),
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["lemonade-serve", "llm"],
        "templating": {"list": list(variables())},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": "lemonade-serve",
        "uid": "lemonade-serve",
        "version": 1,
    }
