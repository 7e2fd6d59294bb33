"""The rules of Prometheus and the routes of Alertmanager, by their own programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
ALERTS = PROMETHEUS / "rules" / "alerts.yml"
RUNBOOK = DEPLOY.parent / "docs" / "alerts.md"


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in _read(ALERTS)["groups"] for rule in group["rules"]]


NAMES = [alert["alert"] for alert in _alerts()]


def _promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("promtool", "Debian's prometheus"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_alert_is_tested_both_ways() -> None:
    expected: dict[str, set[bool]] = defaultdict(set)
    for test in _read(PROMETHEUS / "tests" / "alerts.yml")["tests"]:
        for case in test["alert_rule_test"]:
            expected[case["alertname"]].add(bool(case["exp_alerts"]))
    assert expected == {name: {True, False} for name in NAMES}


def test_each_alert_leads_to_its_section_of_the_runbook() -> None:
    sections = {
        re.sub(r"[^a-z0-9-]", "", line.removeprefix("## ").lower().replace(" ", "-"))
        for line in RUNBOOK.read_text().splitlines()
        if line.startswith("## ")
    }
    for alert in _alerts():
        assert alert["annotations"]["runbook"] == f"docs/alerts.md#{alert['alert'].lower()}"
    assert {name.lower() for name in NAMES} <= sections


def test_each_alert_says_which_daemon_and_how_bad() -> None:
    """The inhibition of alerts goes by the instance."""
    for alert in _alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert "sum(" not in alert["expr"]
        assert "summary" in alert["annotations"]


@pytest.mark.system
def test_the_rules_pass_their_tests() -> None:
    ran = _promtool("test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.system
@pytest.mark.parametrize("name", NAMES)
def test_an_alert_that_never_fires_fails_its_test(name: str, tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    rules = _read(ALERTS)
    for rule in rules["groups"][0]["rules"]:
        if rule["alert"] == name:
            rule["expr"] = f"({rule['expr']}) < -1"
    (tmp_path / "prometheus/rules/alerts.yml").write_text(yaml.safe_dump(rules))
    ran = _promtool("test", "rules", tmp_path / "prometheus/tests/alerts.yml")
    assert (ran.returncode, name in ran.stdout + ran.stderr) == (1, True)


@pytest.mark.system
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    rules = _promtool("check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    assert rules.returncode == 0, rules.stderr
    checked = _promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.system
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [("alertname=LemonadeDown severity=critical", "operators"), ("alertname=Other", "operators")],
)
def test_amtool_accepts_the_routes_and_each_alert_has_a_receiver(
    labels: str, receiver: str
) -> None:
    amtool = program("amtool", "Debian's prometheus-alertmanager")
    config = str(DEPLOY / "alertmanager" / "alertmanager.yml")
    checked = subprocess.run(
        [amtool, "check-config", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    routed = subprocess.run(
        [amtool, "config", "routes", "test", f"--config.file={config}", *labels.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert routed.stdout.split() == [receiver]
