"""Where the daemon may listen, and how it waits for its children."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from lemonade_serve.cli.daemon import (
    _check_address,
    _check_exposure,
    listening,
    wait_without_threads,
)
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server
from tests.fakes import asynchronous


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (Server(), "http://127.0.0.1:1234"),
        (Server(host="::1", port=80), "http://[::1]:80"),
        (Server(uds="/run/x.sock"), "unix:/run/x.sock"),
    ],
)
def test_where_it_listens_is_a_url(server: Server, url: str) -> None:
    assert listening(server) == url


@pytest.mark.parametrize(
    "server", [Server(), Server(host="127.9.9.9"), Server(host="::1"), Server(host="x", uds="/x")]
)
def test_nobody_but_this_machine_needs_no_key(server: Server) -> None:
    with structlog.testing.capture_logs() as lines:
        _check_exposure(server, keys=False)
    assert lines == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::"])  # noqa: S104
def test_all_others_need_one_unless_told_otherwise(host: str) -> None:
    with pytest.raises(SettingsError, match=r"--allow-keyless"):
        _check_exposure(Server(host=host), keys=False)
    with structlog.testing.capture_logs() as lines:
        _check_exposure(Server(host=host, allow_keyless=True), keys=False)
    assert [(line["event"], line["log_level"]) for line in lines] == [("keyless", "warning")]


def test_with_keys_any_address_will_do() -> None:
    with structlog.testing.capture_logs() as lines:
        _check_exposure(Server(host="0.0.0.0"), keys=True)  # noqa: S104
    assert lines == []


def test_a_host_must_be_an_address() -> None:
    with pytest.raises(SettingsError, match=r"server\.host must be an IP address"):
        _check_exposure(Server(host="example.org"), keys=False)


def test_localhost_is_loopback() -> None:
    _check_exposure(Server(host="localhost"), keys=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_port_that_another_listens_on_is_refused(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(SettingsError, match="Is a daemon running already"):
        _check_address(Server(port=port))


def test_a_free_port_is_fine(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    _check_address(Server(port=port))


def test_a_socket_that_another_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(SettingsError, match=r"listening on .* already"):
            _check_address(Server(uds=str(path)))
    assert path.is_socket()


def test_a_socket_that_a_killed_daemon_left_behind_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    _check_address(Server(uds=str(path)))
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    with pytest.raises(SettingsError, match="is no socket"):
        _check_address(Server(uds=str(path)))
    assert path.read_text() == "x"


def test_a_socket_that_is_not_there_is_fine(tmp_path: Path) -> None:
    _check_address(Server(uds=str(tmp_path / "daemon.sock")))


def test_a_socket_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot listen"):
        _check_address(Server(uds=str(tmp_path / "file" / "daemon.sock")))


async def _threads_of_a_child() -> int:
    """How many more there are while it runs."""
    before = threading.active_count()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    more = threading.active_count() - before
    await child.communicate(b"\n")
    assert child.returncode == 0
    return more


@pytest.fixture
def _usual_watcher() -> Iterator[None]:
    yield
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(None)


@pytest.mark.usefixtures("_usual_watcher")
@asynchronous
async def test_no_thread_waits_for_a_child() -> None:
    wait_without_threads()
    assert await _threads_of_a_child() == 0


@pytest.mark.usefixtures("_usual_watcher")
@asynchronous
async def test_without_pidfds_python_waits_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise PermissionError

    with monkeypatch.context() as sandbox:
        sandbox.setattr(os, "pidfd_open", refused)
        wait_without_threads()
    assert await _threads_of_a_child() == (1 if sys.version_info < (3, 12) else 0)
