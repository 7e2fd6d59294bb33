"""The metrics as text."""

from __future__ import annotations

import pytest

from lemonade_serve.telemetry.exposition import expose
from tests.unit.telemetry.house import OPENMETRICS, House, finished, loaded, slot

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def house() -> House:
    house = House()
    house.metrics.know(["small"])
    house.slots = [slot()]
    house.see(loaded(), finished())
    return house


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT_TYPE),
        ("*/*", TEXT_TYPE),
        ("text/plain", TEXT_TYPE),
        ("text/html,*/*;q=0.8", TEXT_TYPE),
        ("text/plain; version=no-number", TEXT_TYPE),
        (OPENMETRICS, OPENMETRICS_TYPE),
        (f"{OPENMETRICS}; version=no-number; escaping=dots", OPENMETRICS_TYPE),
        (PROMETHEUS_2, OPENMETRICS_TYPE),
        (PROMETHEUS_3, OPENMETRICS_TYPE),
    ],
)
def test_who_scrapes_chooses_the_format(house: House, accept: str, content_type: str) -> None:
    text, said = expose(house.metrics, accept)
    assert said == content_type
    assert text.endswith(b"# EOF\n") == (content_type == OPENMETRICS_TYPE)


def test_both_formats_say_the_same(house: House) -> None:
    text, openmetrics = house.scrape(), house.scrape(OPENMETRICS)
    # the one family whose very name the formats see differently
    text["lemonade_build"] = text.pop("lemonade_build_info")
    assert text.keys() == openmetrics.keys()
    for name, family in text.items():
        if name.startswith("lemonade_"):
            assert family.samples == openmetrics[name].samples


def test_a_scrape_changes_nothing(house: House) -> None:
    def ours() -> list[str]:
        lines = expose(house.metrics, "")[0].decode().splitlines()
        return [line for line in lines if line.startswith("lemonade_")]

    slots = list(house.slots)
    assert ours() == ours()
    assert house.slots == slots


def test_draining_is_said(house: House) -> None:
    house.draining = True
    assert b"\nlemonade_draining 1.0\n" in expose(house.metrics, "")[0]
