"""The dashboard without a Grafana: by its types, its queries, and the families that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import chain, combinations
from pathlib import Path

import pytest
import yaml

from lemonade_serve.telemetry.gauges import Gauges, Sources
from lemonade_serve.telemetry.metrics import MetricsObserver
from lemonade_serve.telemetry.stats import StatsObserver
from tests.system.dashboards import FILE, Dashboard
from tests.system.programs import program

ROOT = FILE.parents[2]
TYPES = Path(__file__).with_name("dashboard.ts")
PACKAGES = ("@grafana/schema@12.4.11", "typescript@5.9.3")
NO_FALLBACK = re.compile(r"\bvector\(|\bor on\(\)|\babsent")
DASHBOARD = Dashboard()


def test_the_file_is_what_its_program_writes() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "grafana"], cwd=ROOT, capture_output=True, check=True
    )
    assert written.stdout == FILE.read_bytes()


def test_it_has_the_rows_the_variables_and_the_annotations() -> None:
    assert DASHBOARD.rows() == ["Service levels", "Load", "Pool", "Process"]
    assert list(DASHBOARD.variables()) == ["datasource", "instance", "device", "model"]
    assert [mark.title for mark in DASHBOARD.annotations()] == ["Load", "Evict", "Restart"]


def test_no_query_has_a_constant_to_fall_back_to() -> None:
    for query in [*DASHBOARD.queries(), *DASHBOARD.annotations()]:
        assert not NO_FALLBACK.search(query.expression), query
    for file in (ROOT / "deploy/prometheus/rules").glob("*.yml"):
        assert not NO_FALLBACK.search(file.read_text()), file


def test_each_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in DASHBOARD.panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_each_query_heeds_the_variables_that_its_families_can() -> None:
    for query in [*DASHBOARD.queries(), *DASHBOARD.annotations()]:
        assert query.expression.count("{") == query.expression.count('instance=~"$instance"')
        assert ("$model" not in query.expression) or ("$device" in query.expression)


def test_no_panel_lies_on_another() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD.content["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        assert _apart(one, other, "x", "w") or _apart(one, other, "y", "h"), (one, other)
    numbers = [panel["id"] for panel in DASHBOARD.content["panels"]]
    assert len(set(numbers)) == len(numbers)


def _apart(one: dict[str, int], other: dict[str, int], start: str, length: str) -> bool:
    return one[start] + one[length] <= other[start] or other[start] + other[length] <= one[start]


def test_all_families_are_asked_for_and_no_other() -> None:
    """What a daemon has and nobody looks at is not worth its scrape; rules and panels count."""
    rules = ROOT / "deploy/prometheus/rules"
    in_rules = set(re.findall(r"\blemonade_\w+", _expressions(rules)))
    asked = set().union(*(query.families() for query in DASHBOARD.queries())) | in_rules
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked if "lemonade" in name}
    assert ours == _families()


def _expressions(rules: Path) -> str:
    groups = [yaml.safe_load(file.read_text())["groups"] for file in rules.glob("*.yml")]
    said = [rule["expr"] for group in chain(*groups) for rule in group["rules"]]
    return re.sub(r"\w+:\w+:\w+", "", "\n".join(said))


def _families() -> set[str]:
    sources = Sources(
        residency=lambda: ((), ()),
        last=StatsObserver(),
        draining=lambda: False,
        clock=lambda: 0.0,
        wall=lambda: 0.0,
    )
    counted = {
        family.name for family in MetricsObserver(sources, devices=[], version="0").families.all()
    }
    asked = {family.name for family in Gauges(sources, models=[], devices=[]).collect()}
    return {*counted, *asked, "lemonade_build_info"}


@pytest.fixture(scope="session")
def typescript(request: pytest.FixtureRequest) -> Path:
    """A directory with Grafana's types and a compiler, kept between runs."""
    program("node", "Debian's nodejs")
    npm = program("npm", "Debian's npm")
    cache = request.config.cache
    assert cache is not None
    directory = cache.mkdir("typescript")
    if not (directory / "node_modules/.bin/tsc").exists():
        command = [npm, "install", "--prefix", str(directory), "--no-save", *PACKAGES]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            pytest.skip(f"npm could not install Grafana's types: {installed.stderr[-500:]}")
    return directory


MUTANTS = {
    "a field of the dashboard": ('"schemaVersion"', '"schemaVersoin"'),
    "an enum's value": ('"graphTooltip": 1', '"graphTooltip": 7'),
    "a field of a query": ('"legendFormat"', '"legendFromat"'),
    "a field of an annotation": ('"iconColor"', '"iconColour"'),
    "an option of a panel": ('"showLegend"', '"showLegnd"'),
    "an option of another kind of panel": ('"graphMode"', '"mergeValues"'),
    "a field's look": ('"fillOpacity"', '"fillOpacty"'),
    "a word of an enum": ('"mode": "multi"', '"mode": "mutli"'),
    "a number where a word must be": ('"unit": "s"', '"unit": 1'),
    "a kind of panel": ('"type": "heatmap"', '"type": "heatmpa"'),
}


@pytest.mark.system
def test_grafana_s_types_accept_it_and_catch_what_is_misspelt(
    typescript: Path,
) -> None:
    content = FILE.read_text()
    files = {"good": content}
    for number, (right, wrong) in enumerate(MUTANTS.values()):
        assert right in content
        files[f"mutant{number}"] = content.replace(right, wrong, 1)
    (typescript / "dashboard.ts").write_text(TYPES.read_text())
    for name, text in files.items():
        (typescript / f"{name}.ts").write_text(
            'import type { Checked } from "./dashboard";\n'
            f"export const dashboard: Checked = {text};\n"
        )
    options = "--strict --noEmit --skipLibCheck --module nodenext --moduleResolution nodenext"
    compiled = subprocess.run(
        [typescript / "node_modules/.bin/tsc", *options.split(), *(f"{name}.ts" for name in files)],
        cwd=typescript,
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = set(re.findall(r"^(\w+)\.ts\(", compiled.stdout, re.MULTILINE))
    assert wrong == files.keys() - {"good"}, compiled.stdout
