"""`params`: from words on a command line to a client's parameters, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli.runner import invoke, output
from tests.unit.cli.scripted import ScriptedDaemon


@pytest.fixture(autouse=True)
def _in_force(daemon: ScriptedDaemon) -> None:
    daemon.body = {
        "status": "success",
        "message": "Generation parameters set successfully",
        "params": {"temperature": 0.2, "do_sample": True, "seed": None, "stop": ["END", "[b]"]},
        "sources": {"temperature": "client", "do_sample": "default", "seed": "default"},
    }


class TestGet:
    def test_values_and_where_they_come_from(self, daemon: ScriptedDaemon) -> None:
        lines = output("params", "get").splitlines()
        assert [line.split() for line in lines[:4]] == [
            ["PARAMETER", "VALUE", "FROM"],
            ["temperature", "0.2", "client"],
            ["do_sample", "true", "default"],
            ["seed", "null", "default"],
        ]
        assert lines[4].split() == ["stop", '["END",', '"[b]"]', "-"]
        assert daemon.only().what() == ("GET", "/api/v0/params", None)

    def test_those_for_one_model(self, daemon: ScriptedDaemon) -> None:
        output("params", "get", "--model", "org/small")
        assert daemon.only().what() == ("GET", "/api/v0/params", {"model": "org/small"})

    def test_programs_get_what_the_daemon_said(self, daemon: ScriptedDaemon) -> None:
        assert json.loads(output("params", "get", "--json")) == daemon.body


class TestSet:
    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("temperature=0.2", 0.2),
            ("max_length=500", 500),
            ("do_sample=false", False),
            ('stop=["END", "\\n"]', ["END", "\n"]),
            ("stop=END", "END"),
            ("stop=a=b", "a=b"),
            ('stop="5"', "5"),
            ("seed=-1", -1),
            ("seed=null", None),
            ("seed=", None),
            ("temperature=NaN", "NaN"),
            ("temperature=1e999", "1e999"),
            ("temperature=Infinity", "Infinity"),
        ],
    )
    def test_a_value_is_json_or_a_text(
        self, daemon: ScriptedDaemon, word: str, value: object
    ) -> None:
        output("params", "set", word)
        name = word.partition("=")[0]
        assert daemon.only().what() == ("POST", "/api/v0/params", {name: value})

    def test_many_are_set_at_once_and_what_is_in_force_then_is_shown(
        self, daemon: ScriptedDaemon
    ) -> None:
        changes = ["temperature=0.2", "do_sample=true", "seed="]
        said = output("params", "set", *changes, "--model", "small")
        assert said == "temperature=0.2\ndo_sample=true\nseed=null\n"
        assert daemon.only().body == {
            "temperature": 0.2,
            "do_sample": True,
            "seed": None,
            "model": "small",
        }

    @pytest.mark.parametrize("words", [[], ["temperature"], ["model=small"], ["a=1", "b"]])
    def test_what_sets_nothing_is_a_usage_error(
        self, daemon: ScriptedDaemon, words: list[str]
    ) -> None:
        assert invoke("params", "set", *words).exit_code == 2
        assert daemon.asked == []

    def test_programs_get_what_the_daemon_said(self, daemon: ScriptedDaemon) -> None:
        assert json.loads(output("params", "set", "seed=1", "--json")) == daemon.body


class TestReset:
    @pytest.mark.parametrize(
        ("options", "query"), [([], None), (["--model", "small"], {"model": "small"})]
    )
    def test_everything(
        self, daemon: ScriptedDaemon, options: list[str], query: dict[str, str] | None
    ) -> None:
        assert output("params", "reset", *options) == f"{daemon.body['message']}\n"
        assert daemon.only().what() == ("DELETE", "/api/v0/params", query)

    def test_some(self, daemon: ScriptedDaemon) -> None:
        said = output("params", "reset", "seed", "temperature", "--model", "small")
        assert said == "seed=null\ntemperature=0.2\n"
        body: dict[str, Any] = {"seed": None, "temperature": None, "model": "small"}
        assert daemon.only().what() == ("POST", "/api/v0/params", body)

    def test_a_model_is_no_parameter(self, daemon: ScriptedDaemon) -> None:
        assert invoke("params", "reset", "model").exit_code == 2
        assert daemon.asked == []

    @pytest.mark.parametrize("names", [[], ["seed"]])
    def test_programs_get_what_the_daemon_said(
        self, daemon: ScriptedDaemon, names: list[str]
    ) -> None:
        assert json.loads(output("params", "reset", *names, "--json")) == daemon.body
