"""The request that finished last."""

from __future__ import annotations

import pytest

from lemonade_serve.domain.events import CatalogueListed, Outcome
from lemonade_serve.domain.ports import LastRequests
from lemonade_serve.telemetry.stats import StatsObserver
from tests.unit.telemetry.house import finished, loaded, refused, requested


@pytest.fixture
def stats() -> StatsObserver:
    return StatsObserver()


def test_before_the_first_there_is_none(stats: LastRequests) -> None:
    assert stats.last() is None
    assert stats.last("small") is None


def test_the_last_one_counts_of_all_and_of_each_model(stats: StatsObserver) -> None:
    first, second = finished(model="small"), finished(model="large")
    for event in (finished(model="small", prompt_tokens=1), first, second):
        stats.observe(event)
    assert stats.last() is second
    assert stats.last("small") is first
    assert stats.last("large") is second
    assert stats.last("no-such-model") is None


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK])
def test_what_did_not_end_well_does_not_count(stats: StatsObserver, outcome: Outcome) -> None:
    good = finished()
    stats.observe(good)
    stats.observe(finished(outcome=outcome))
    assert stats.last() is stats.last("small") is good


def test_what_generated_nothing_is_the_last_one_of_its_own_model_only(
    stats: StatsObserver,
) -> None:
    said, encoded = finished(), finished(model="embedder", generates=False)
    stats.observe(said)
    stats.observe(encoded)
    assert stats.last() is said
    assert stats.last("embedder") is encoded


def test_other_events_do_not_count(stats: StatsObserver) -> None:
    for event in (loaded(), requested(resident=True), refused("small")):
        stats.observe(event)
    assert stats.last() is None


def test_a_forgotten_model_has_no_last_request(stats: StatsObserver) -> None:
    large, small = finished(model="large"), finished(model="small")
    stats.observe(large)
    stats.observe(small)
    stats.observe(CatalogueListed(models=frozenset({"large"})))
    assert stats.last("small") is None
    assert stats.last("large") is large
    assert stats.last() is small
