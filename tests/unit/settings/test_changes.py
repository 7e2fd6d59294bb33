"""Which settings can change while the daemon runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lemonade_serve.settings import Device, Devices, Log, Options, Pool, Server, Settings, Worker
from lemonade_serve.settings.changes import changeable, changes
from lemonade_serve.settings.listing import entries
from lemonade_serve.settings.load import Sourced

RUNNING = Settings(api_keys={"ann": "secret"}, pool=Pool(preload=("a",)))


def test_the_same_settings_change_nothing() -> None:
    found = changes(RUNNING, RUNNING)
    assert (found.in_force, found.applied, found.restart) == (RUNNING, [], [])


def test_what_can_change_is_in_force_and_what_cannot_waits() -> None:
    wanted = Settings(
        api_keys={"ann": "other", "bob": "another"},
        cache_dir="/elsewhere",
        parameters=Options(temperature=0.5, stop=["x"]),
        server=Server(port=80),
        devices=Devices(cpu=Device(execution_provider="cpu", max_models=9, memory_budget="1GiB")),
        pool=Pool(preload=("a", "b")),
        worker=Worker(client_weights={"ann": 2.0}, threads=3),
        log=Log(level="debug"),
    )
    found = changes(RUNNING, wanted)
    assert found.restart == ["cache_dir", "server.port", "worker.threads"]
    assert found.applied == [
        "api_keys",
        "parameters.temperature",
        "parameters.stop",
        "devices.cpu.max_models",
        "devices.cpu.memory_budget",
        "pool.preload",
        "worker.client_weights",
        "log.level",
    ]
    assert (found.in_force.cache_dir, found.in_force.server) == (RUNNING.cache_dir, Server())
    assert found.in_force.worker == Worker(client_weights={"ann": 2.0})
    assert found.in_force.devices == wanted.devices
    assert found.in_force.api_keys == wanted.api_keys


def test_what_waits_for_a_restart_is_said_each_time() -> None:
    wanted = Settings(server=Server(port=80))
    once = changes(Settings(), wanted)
    assert changes(once.in_force, wanted).restart == ["server.port"]


def test_what_is_taken_out_of_the_file_is_its_default_again() -> None:
    found = changes(RUNNING, Settings())
    assert (found.in_force, found.applied) == (Settings(), ["api_keys", "pool.preload"])


@pytest.mark.parametrize("secret", ["secret", "other"])
def test_nothing_that_is_said_of_it_has_a_value_in_it(secret: str) -> None:
    found = changes(RUNNING, Settings(api_keys={"ann": "other"}, database_url="postgresql://other"))
    assert secret not in repr([found.applied, found.restart])


def test_the_documentation_says_which_they_are() -> None:
    page = Path(__file__).parents[3] / "docs/operations.md"
    (row,) = re.findall(r"^\| at once \| (.*?) \|", page.read_text("utf-8"), re.MULTILINE)
    said = set(re.findall(r"`([a-z_.*]+)`", row))
    keys = {entry.key for entry in entries(Sourced(settings=Settings(), sources={}))}
    changing = {key for key in keys if changeable(tuple(key.split(".")))}
    named = {key for key in keys for one in said if re.fullmatch(one.replace("*", "[a-z_]+"), key)}
    assert named == changing
