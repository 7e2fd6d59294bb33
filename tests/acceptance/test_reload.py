"""SIGHUP: other settings in a real daemon, while it is asked."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.daemon import Daemon, eventually

LONG = {"prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True}


class House:
    """A daemon, and the file that it reads."""

    def __init__(self, daemon: Daemon, file: Path) -> None:
        self.daemon = daemon
        self.file = file
        self._reloads = 0

    def reload(self, *lines: str) -> None:
        """Returns when the daemon has said what became of it."""
        self.file.write_text("\n".join(lines))
        self.daemon.process.send_signal(signal.SIGHUP)
        self._reloads += 1
        eventually(lambda: len(self._said()) == self._reloads)

    def _said(self) -> list[dict[str, object]]:
        return self.daemon.logged("settings_reloaded") + self.daemon.logged("settings_refused")


@pytest.fixture
def house(start_abc: Callable[..., Daemon], tmp_path: Path) -> House:
    """Room for two models, by a file."""
    file = tmp_path / "lemonade.toml"
    file.write_text("devices.cpu.max_models = 2\n")
    daemon = start_abc(2, LEMONADE_CONFIG=str(file), LEMONADE_DEVICES__CPU__MAX_MODELS="")
    return House(daemon, file)


def test_a_smaller_budget_evicts_the_idle_and_cuts_nobody(house: House) -> None:
    daemon = house.daemon
    daemon.use("b")
    running = daemon.events("/v1/completions", {**LONG, "model": "a"})
    next(running)
    house.reload("devices.cpu.max_models = 1")
    eventually(lambda: daemon.departures(reason="pressure") == ["b"])
    *_, last = running
    assert last["choices"][0]["finish_reason"] == "length"
    assert list(daemon.resident()) == ["a"]
    assert daemon.health()["devices"][0]["max_models"] == 1
    (line,) = daemon.logged("settings_reloaded")
    assert line["applied"] == ["devices.cpu.max_models"]


def test_keys_change_between_two_requests(house: House) -> None:
    daemon, common = house.daemon, "devices.cpu.max_models = 2"
    running = daemon.events("/v1/completions", {**LONG, "model": "a"})
    next(running)
    house.reload(common, "api_keys.ann = 'key-of-ann'")
    assert daemon.client.get("/v1/models").status_code == 401
    ann = {"Authorization": "Bearer key-of-ann"}
    assert daemon.client.get("/v1/models", headers=ann).status_code == 200
    assert "401" in daemon.client.get("/schema/openapi.json", headers=ann).text
    *_, last = running
    assert last["choices"][0]["finish_reason"] == "length"
    house.reload(common, "api_keys.bob = 'key-of-bob'")
    assert daemon.client.get("/v1/models", headers=ann).status_code == 401
    assert "key-of" not in daemon.log_text()


def test_a_wrong_file_changes_nothing_and_says_why(house: House) -> None:
    house.reload("default_model = 'a'", "[devices.cpu]", "max_modls = 1")
    (line,) = house.daemon.logged("settings_refused", level="error")
    assert "did you mean devices.cpu.max_models" in line["reason"]
    assert house.daemon.health()["devices"][0]["max_models"] == 2


def test_what_needs_a_restart_is_named(house: House) -> None:
    house.reload("devices.cpu.max_models = 2", "server.port = 9", "default_model = 'c'")
    (line,) = house.daemon.logged("settings_need_restart", level="warning")
    assert line["keys"] == ["server.port"]
    answer = house.daemon.client.post("/api/v0/completions", json={"prompt": "Hi", "max_length": 1})
    assert answer.json()["model"] == "c"


def test_models_that_are_new_in_the_list_are_loaded_and_it_stays_ready(house: House) -> None:
    house.reload("devices.cpu.max_models = 2", "pool.preload = ['b']")
    assert house.daemon.client.get("/readyz").status_code == 200
    eventually(lambda: house.daemon.resident().keys() == {"b"})


def test_the_level_of_the_log_changes(house: House) -> None:
    daemon = house.daemon
    house.reload("devices.cpu.max_models = 2", "log.level = 'warning'")
    before = len(daemon.logged("request_finished"))
    daemon.use("a", "a")
    house.file.write_text("devices.cpu.max_models = 2")
    daemon.process.send_signal(signal.SIGHUP)

    def told() -> int:
        daemon.use("a")
        return len(daemon.logged("request_finished")) - before

    assert eventually(told) == 1


def test_no_request_is_lost_to_reloads(house: House, together: ThreadPoolExecutor) -> None:
    def ask(n: int) -> int:
        return house.daemon.complete("ab"[n % 2]).status_code

    asked = [together.submit(ask, n) for n in range(40)]
    for room in (1, 2, 1, 2):
        house.reload(f"devices.cpu.max_models = {room}")
    assert {answer.result(60) for answer in asked} == {200}


def test_one_that_is_under_way_when_the_daemon_stops_changes_nothing(house: House) -> None:
    daemon = house.daemon
    running = daemon.events("/v1/completions", {**LONG, "model": "a"})
    next(running)
    house.file.unlink()
    os.mkfifo(house.file)  # the daemon reads until somebody has written
    daemon.process.send_signal(signal.SIGHUP)
    with house.file.open("w") as settings:
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: daemon.logged("daemon_draining"))
        settings.write("devices.cpu.max_models = 2\npool.preload = ['b']")
    (refused,) = eventually(lambda: daemon.logged("settings_refused"))
    assert "shutting down" in refused["reason"]
    list(running)
    assert daemon.process.wait(60) == 0
    assert daemon.logged("settings_reloaded") == []


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify.sock"))
        systemd.settimeout(60)
        yield systemd


def test_systemd_is_told(start_daemon: Callable[..., Daemon], systemd: socket.socket) -> None:
    daemon = start_daemon(NOTIFY_SOCKET=str(systemd.getsockname()))
    assert systemd.recv(999) == b"READY=1"
    daemon.process.send_signal(signal.SIGHUP)
    assert systemd.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert systemd.recv(999) == b"READY=1"
    assert daemon.terminate() == 0
    assert systemd.recv(999) == b"STOPPING=1"
