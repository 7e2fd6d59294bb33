"""`ps`: what of /health is shown."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from lemonade_serve.cli import ps
from lemonade_serve.errors import LemonadeError
from tests.unit.cli.runner import invoke, output
from tests.unit.cli.scripted import ScriptedDaemon
from tests.unit.cli.terminal import on_terminal


def model(**said: Any) -> dict[str, Any]:
    known = {
        "model_name": "org/small",
        "checkpoint": "/cache/org/small/int4",
        "device": "npu",
        "dtype": "int4",
        "state": "resident",
        "pinned": False,
        "is_busy": False,
        "is_streaming": False,
        "requests_running": 0,
        "requests_waiting": 0,
        "memory_bytes": 276_100_000,
        "last_use": time.time() - 7260,
        "pid": 4711,
        "engine": "native",
        "engine_reason": "it was asked for",
    }
    return {**known, **said}


def health(*models: dict[str, Any]) -> dict[str, Any]:
    npu = {
        "device": "npu",
        "execution_provider": "cpu",
        "max_models": 4,
        "models": len(models),
        "memory_budget_bytes": 6_000_000_000,
        "memory_used_bytes": 276_100_000,
    }
    loaded = models[0]["model_name"] if models else None
    return {
        "status": "ok",
        "model_loaded": loaded,
        "all_models_loaded": list(models),
        "devices": [npu],
        "max_models": 4,
        "version": "0.1.0",
    }


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_line_for_each_model_and_each_device(daemon: ScriptedDaemon) -> None:
    busy = model(
        model_name="large", pinned=True, is_busy=True, requests_running=2, requests_waiting=3
    )
    daemon.body = health(busy, model())
    headings, *lines = rows(output("ps"))
    assert " ".join(headings) == ("MODEL DEVICE DTYPE STATE PINNED REQUESTS MEMORY IDLE PID ENGINE")
    assert lines == [
        ["large", "npu", "int4", "resident", "yes", "2+3", "276.1", "MB", "-", "4711", "native"],
        ["org/small", "npu", "int4", "resident", "-", "0+0", "276.1", "MB", "2h", "4711", "native"],
        [],
        ["ENGINE", "SERVES", "BECAUSE"],
        ["native", "large,", "org/small", "it", "was", "asked", "for"],
        [],
        ["DEVICE", "PROVIDER", "MODELS", "MEMORY"],
        ["npu", "cpu", "2/4", "276.1", "MB/6.0", "GB"],
    ]
    assert daemon.only().what() == ("GET", "/api/v0/health", None)


def test_a_device_that_cannot_serve_is_told_with_its_remedy(daemon: ScriptedDaemon) -> None:
    gone = {
        "device": "igpu",
        "execution_provider": "webgpu",
        "reason": "it is gone",
        "advice": "find it",
    }
    daemon.body = {**health(), "unusable_devices": [gone]}
    assert rows(output("ps"))[-2:] == [
        ["UNUSABLE", "PROVIDER", "BECAUSE", "REMEDY"],
        ["igpu", "webgpu", "it", "is", "gone", "find", "it"],
    ]


def test_what_is_not_known_before_the_load_is_left_open(daemon: ScriptedDaemon) -> None:
    loading = model(state="waiting", is_busy=True, memory_bytes=None, pid=None)
    loading |= {"engine": None, "engine_reason": None}
    daemon.body = health(loading)
    shown = rows(output("ps"))
    assert shown[1][3:] == ["waiting", "-", "0+0", "-", "-", "-", "-"]
    assert shown[2:4] == [[], ["DEVICE", "PROVIDER", "MODELS", "MEMORY"]]


def test_each_engine_is_told_why_it_serves_what_it_serves(daemon: ScriptedDaemon) -> None:
    other = "its cache is not in one piece"
    daemon.body = health(
        model(model_name="a"),
        model(model_name="b", engine="other", engine_reason=other),
        model(model_name="c"),
        model(model_name="a", device="cpu"),
        model(model_name="d", engine=None, engine_reason=None),
    )
    lines = output("ps").split("\n\n")[1].splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["ENGINE", "native", "other"]
    assert "a, c " in lines[1]
    assert lines[1].rstrip().endswith("it was asked for")
    assert lines[2].split() == ["other", "b", *other.split()]


def test_nothing_loaded_says_what_to_do(daemon: ScriptedDaemon) -> None:
    daemon.body = health()
    said = output("ps")
    assert "lemonade-serve load" in said
    assert "0/4" in said


def test_programs_get_what_the_daemon_said(daemon: ScriptedDaemon) -> None:
    daemon.body = health(model())
    assert json.loads(output("ps", "--json")) == daemon.body


def test_a_long_name_is_not_cut_where_there_is_no_terminal(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "organisation/" + "very-" * 30 + "long"
    daemon.body = health(model(model_name=name))
    assert rows(output("ps"))[1][0] == name


def test_a_name_in_brackets_is_no_markup(daemon: ScriptedDaemon) -> None:
    daemon.body = health(model(model_name="[red]:smile:[/nothing]"))
    assert rows(output("ps"))[1][0] == "[red]:smile:[/nothing]"


def test_a_daemon_of_another_version_is_an_error(daemon: ScriptedDaemon) -> None:
    daemon.body = {**health(), "devices": ["cpu"]}
    result = invoke("ps")
    assert isinstance(result.exception, LemonadeError)
    assert "does not understand" in result.exception.message


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (86399, "23h"), (1e6, "11d")],
)
def test_idle_is_told_in_the_largest_unit(seconds: float, shown: str) -> None:
    assert ps._duration(seconds) == shown


def test_on_a_terminal_it_fits_and_nothing_is_lost(daemon: ScriptedDaemon) -> None:
    name = "organisation/" + "very-" * 30 + "long"
    daemon.body = health(model(model_name=name))
    lines = on_terminal("ps", columns=100).splitlines()
    assert max(map(len, lines)) <= 100
    width = lines[0].index("DEVICE")
    assert "".join(line[:width].strip() for line in lines[1 : lines.index("")]) == name
