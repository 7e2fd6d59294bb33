"""What Prometheus would see of a daemon."""

from __future__ import annotations

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.daemon import Daemon

PREFIX = "lemonade_"
OPENMETRICS = "application/openmetrics-text"


class Scrape:
    """One exposition, by the library's own parsers."""

    def __init__(self, daemon: Daemon, accept: str = "text/plain") -> None:
        answer = daemon.client.get("/metrics", headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        self.text = answer.text
        self.content_type = answer.headers["content-type"]
        parse = parse_openmetrics if self.content_type.startswith(OPENMETRICS) else parse_text
        self.families: list[Metric] = list(parse(self.text))

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name, less the prefix, that have these labels; there must
        be one."""
        values = [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
        ]
        assert values, f"there is no {name} with {labels}"
        return sum(values)

    def nonzero(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The samples of that name that are not 0, by the values of `labels`."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == PREFIX + name and sample.value
        }

    def models(self) -> set[str]:
        """All that the label `model` is anywhere."""
        samples = [sample for family in self.families for sample in family.samples]
        return {sample.labels["model"] for sample in samples if "model" in sample.labels}
