"""`load`, `unload`, `pin` and `unpin`: what is asked, and what is said meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli.runner import invoke, output
from tests.unit.cli.scripted import ScriptedDaemon
from tests.unit.cli.terminal import on_terminal

DONE = {"status": "success", "message": "Model loaded successfully: small in int4"}


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("load small", {"model": "small"}),
        (
            "load small --device npu --dtype int4 --keep-alive 90",
            {"model": "small", "device": "npu", "dtype": "int4", "keep_alive": 90},
        ),
        ("unload small", {"model": "small"}),
        ("unload small --device cpu --force", {"model": "small", "device": "cpu", "force": True}),
        ("unload --all", {}),
        ("unload --all --device npu", {"device": "npu"}),
        ("pin small", {"model": "small"}),
        (
            "pin small --device igpu --dtype int8",
            {"model": "small", "device": "igpu", "dtype": "int8"},
        ),
        ("unpin small", {"model": "small"}),
        ("unpin small --device cpu", {"model": "small", "device": "cpu"}),
        ("unpin --all", {}),
    ],
)
def test_what_is_given_is_asked_and_nothing_else(
    daemon: ScriptedDaemon, command: str, body: dict[str, Any]
) -> None:
    daemon.body = DONE
    verb, *arguments = command.split()
    result = invoke(verb, *arguments)
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == (f"{DONE['message']}\n", "")
    assert daemon.only().what() == ("POST", f"/api/v0/{verb}", body)


@pytest.mark.parametrize("command", ["unload", "unpin"])
def test_all_models_are_never_meant_by_accident(daemon: ScriptedDaemon, command: str) -> None:
    for arguments in ([], ["small", "--all"], ["--device", "cpu"]):
        result = invoke(command, *arguments)
        assert result.exit_code == 2
        assert "--all" in result.stderr
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0), ("1.5", 1.5), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("-1", -1)],
)
def test_a_time_may_have_a_unit(daemon: ScriptedDaemon, said: str, seconds: float) -> None:
    output("load", "small", "--keep-alive", said)
    assert daemon.only().body["keep_alive"] == seconds


@pytest.mark.parametrize("said", ["soon", "5 weeks", "m", "1e3", ""])
def test_what_is_no_time_is_a_usage_error(daemon: ScriptedDaemon, said: str) -> None:
    result = invoke("load", "small", "--keep-alive", said)
    assert result.exit_code == 2
    assert "10m" in result.stderr
    assert daemon.asked == []


@pytest.mark.parametrize("command", ["load", "unload", "pin", "unpin"])
def test_programs_get_what_the_daemon_said(daemon: ScriptedDaemon, command: str) -> None:
    daemon.body = DONE
    assert json.loads(output(command, "small", "--json")) == DONE


def test_a_person_sees_that_it_is_under_way(daemon: ScriptedDaemon) -> None:
    daemon.body = DONE
    seen = on_terminal("load", "[small]")
    assert "Loading [small] ..." in seen
    assert DONE["message"] in seen
