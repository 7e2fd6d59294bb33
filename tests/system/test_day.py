"""After a day in the life of a daemon, the dashboard and the alerts say what happened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import checkpoints
from tests.daemon import eventually
from tests.system import figures
from tests.system.dashboards import FILE, Dashboard
from tests.system.day import STEP_S, Day
from tests.system.stack import compose_stack, host_stack

pytestmark = pytest.mark.system
DASHBOARD = Dashboard()
RULES = FILE.parents[2] / "deploy" / "prometheus" / "rules"


@pytest.fixture(scope="module")
def models(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with `a`, `b`, and `broken`, which cannot be loaded."""
    source, root = checkpoints.original(cache_dir), tmp_path_factory.mktemp("models")
    for name in "ab":
        checkpoints.link(source, root / name)
    checkpoints.link(source, root / "broken", {"model.onnx.data": b"short"})
    return root


@pytest.fixture(scope="module", params=["host", "compose"])
def day(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Day]:
    if compose := request.param == "compose":
        request.getfixturevalue("image")
    open_stack = compose_stack if compose else host_stack
    with open_stack(models, tmp_path_factory.mktemp("day")) as stack:
        day = Day(stack)
        day.live()
        yield day


@pytest.fixture(scope="module")
def variables(day: Day) -> dict[str, str]:
    """What Grafana puts for the variables when everything is selected."""
    values = {"__rate_interval": f"{figures.WINDOW_S}s", "__interval": f"{STEP_S}s"}
    for name, variable in DASHBOARD.variables().items():
        if variable["type"] == "query":
            values[name] = variable.get("allValue") or _either(_choices(day, name, values))
    return values


def _choices(day: Day, name: str, values: dict[str, str]) -> list[str]:
    query = DASHBOARD.variables()[name]["query"]["query"]
    for other, value in values.items():
        query = query.replace(f"${other}", value)
    return day.stack.prometheus.values(query)


def _either(values: list[str]) -> str:
    """As Grafana writes several values in a query."""
    return "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in values) + ")"


def test_the_daemon_counted_what_was_done(day: Day) -> None:
    for family, (values, labels) in figures.totals(day).items():
        found = day.at_dusk(f"sum by ({', '.join(labels)}) (lemonade_{family})")
        try:
            figures.exactly(values, *labels)(found)
        except AssertionError as wrong:
            raise AssertionError(f"{family}: {wrong}") from wrong


def test_the_variables_offer_what_there_is(day: Day, variables: dict[str, str]) -> None:
    assert len(_choices(day, "instance", variables)) == 1
    assert _choices(day, "device", variables) == ["cpu"]
    assert _choices(day, "model", variables) == ["a", "b", "broken", "other"]


def test_each_panel_shows_what_happened(day: Day, variables: dict[str, str]) -> None:
    checks = figures.expected(day)
    queries = {(query.title, query.ref): query for query in DASHBOARD.queries()}
    assert checks.keys() == queries.keys()
    wrong = {}
    for key, query in queries.items():
        samples = day.at_dusk(query.with_variables(variables))
        try:
            assert samples, "no data"
            checks[key](samples)
        except (AssertionError, KeyError) as error:
            wrong[key] = str(error)
    assert not wrong


def test_each_panel_has_data_of_one_model_on_one_device_too(
    day: Day, variables: dict[str, str]
) -> None:
    chosen = {**variables, "model": "a", "device": "cpu"}
    empty = [
        query.title
        for query in DASHBOARD.queries()
        if not day.at_dusk(query.with_variables(chosen))
    ]
    assert not empty


def test_the_graphs_have_seen_requests_run_and_wait_and_models_come_and_go(
    day: Day, variables: dict[str, str]
) -> None:
    asked = {
        (query.title, query.ref): query.with_variables(variables) for query in DASHBOARD.queries()
    }

    def seen(title: str, ref: str, model: str) -> set[float]:
        series = day.stack.prometheus.over(asked[title, ref], day.begun, day.ended, 1)
        return {s.value for samples in series for s in samples if s.labels["model"] == model}

    for ref in "AB":
        assert seen("Running and waiting requests", ref, "a") == {0, 1}
    assert seen("State of each model", "A", "a") >= {0, 3}
    assert seen("State of each model", "A", "b") >= {0, 3}
    assert max(seen("KV cache in use", "A", "a")) > 0


def test_each_annotation_marks_each_event_once(day: Day, variables: dict[str, str]) -> None:
    steps = int(day.ended - day.begun) // STEP_S + 1
    start = day.ended - steps * STEP_S
    for mark in DASHBOARD.annotations():
        values, labels = figures.annotations(day)[mark.title]
        marked: Counter[tuple[str, ...]] = Counter()
        query = mark.with_variables(variables)
        for series in day.stack.prometheus.over(query, start, day.ended, STEP_S):
            for sample in series:
                assert sample.value > 0
                marked[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        assert marked == values, mark.title


def test_each_recording_rule_has_recorded(day: Day) -> None:
    rules = yaml.safe_load((RULES / "recording.yml").read_text())["groups"][0]["rules"]
    query = day.stack.prometheus.instant
    for rule in rules:
        assert query(rule["record"]), rule["record"]
    failed, good = day.requests["a", "completions", "error"], len(day.usage["a"])
    ratio = 'model_device:lemonade_requests:error_ratio_rate5m{model="a"}'
    share = pytest.approx(failed / (failed + good))
    eventually(lambda: [sample.value for sample in query(ratio)] == [share])


ALERTS = {
    ("LemonadeLoadFailures", "broken"): "active",
    ("LemonadeWorkerCrashLoop", "a"): "active",
    ("LemonadeRejecting", ""): "active",
    ("LemonadeErrorRatio", "a"): "suppressed",
    ("LemonadeErrorRatio", "broken"): "suppressed",
}


def test_alerts_fire_and_what_explains_another_silences_it(day: Day) -> None:
    told = day.stack.alertmanager.alerts
    eventually(lambda: told().items() >= ALERTS.items())
    assert day.stack.prometheus.alerts() >= ALERTS.keys()


def test_a_daemon_that_is_gone_is_the_only_thing_to_say(day: Day) -> None:
    """The last test: nothing starts the daemon again."""
    day.stack.stop()
    told = day.stack.alertmanager.alerts
    down = ("LemonadeDown", "")
    eventually(lambda: told().get(down) == "active")
    eventually(lambda: {key for key, state in told().items() if state == "active"} == {down})
