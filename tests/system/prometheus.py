"""What a live Prometheus says."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import httpx


class Sample(NamedTuple):
    labels: dict[str, str]
    value: float


class _Server:
    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=30, trust_env=False)

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()


class Prometheus(_Server):
    """The API of a server; `address` is its URL."""

    def instant(self, expression: str, at: float | None = None) -> list[Sample]:
        """The samples at a Unix time, or now, but for those that are no numbers."""
        time = {} if at is None else {"time": f"{at:.3f}"}
        found = self._get("query", query=expression, **time)["result"]
        samples = [Sample(series["metric"], float(series["value"][1])) for series in found]
        return [sample for sample in samples if not math.isnan(sample.value)]

    def over(self, expression: str, start: float, end: float, step: int) -> list[list[Sample]]:
        """The samples of each series, from `start` to `end` in steps of seconds."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": str(step)}
        found = self._get("query_range", query=expression, **times)["result"]
        return [
            [Sample(series["metric"], float(value)) for _, value in series["values"]]
            for series in found
        ]

    def values(self, query: str) -> list[str]:
        """What Grafana makes of a variable's `label_values(SERIES, LABEL)`."""
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert asked, query
        series, label = asked.groups()
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": series})
        return found

    def alerts(self) -> set[tuple[str, str]]:
        """The name and the model of each that fires."""
        told = self._get("alerts")["alerts"]
        firing = [alert["labels"] for alert in told if alert["state"] == "firing"]
        return {(labels["alertname"], labels.get("model", "")) for labels in firing}

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]


class Alertmanager(_Server):
    """The API of a server; `address` is its URL."""

    def alerts(self) -> dict[tuple[str, str], str]:
        """The state of each, by its name and its model: `active`, or `suppressed` by another."""
        told = self._client.get("/api/v2/alerts").json()
        return {
            (alert["labels"]["alertname"], alert["labels"].get("model", "")): alert["status"][
                "state"
            ]
            for alert in told
        }
