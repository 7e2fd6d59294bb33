"""Where the daemon may listen."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from lemonade_serve.cli.listening import (
    check_address,
    check_exposure,
    check_listening,
    listening,
)
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server, Settings

LONG = f"/tmp/{'x' * 120}"  # noqa: S108, nothing is made there


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
        check_exposure(server, keys=False)
    assert lines == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::"])  # noqa: S104
def test_all_others_need_one_unless_told_otherwise(host: str) -> None:
    with pytest.raises(SettingsError, match=r"--allow-keyless"):
        check_exposure(Server(host=host), keys=False)
    with structlog.testing.capture_logs() as lines:
        check_exposure(Server(host=host, allow_keyless=True), keys=False)
    assert [(line["event"], line["log_level"]) for line in lines] == [("keyless", "warning")]


def test_with_keys_any_address_will_do() -> None:
    with structlog.testing.capture_logs() as lines:
        check_exposure(Server(host="0.0.0.0"), keys=True)  # noqa: S104
    assert lines == []


def test_a_host_must_be_an_address() -> None:
    with pytest.raises(SettingsError, match=r"server\.host must be an IP address"):
        check_exposure(Server(host="example.org"), keys=False)


def test_localhost_is_loopback() -> None:
    check_exposure(Server(host="localhost"), keys=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_port_that_another_listens_on_is_refused(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(SettingsError, match="Is a daemon running already"):
        check_address(Server(port=port))


def test_a_free_port_is_fine(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    check_address(Server(port=port))


def test_a_socket_that_another_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(SettingsError, match=r"listening on .* already"):
            check_address(Server(uds=str(path)))
    assert path.is_socket()


def test_a_socket_that_a_killed_daemon_left_behind_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    check_address(Server(uds=str(path)))
    assert path.is_socket()
    check_listening(Settings(server=Server(uds=str(path))))
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    with pytest.raises(SettingsError, match="is no socket"):
        check_address(Server(uds=str(path)))
    assert path.read_text() == "x"


def test_a_socket_that_is_not_there_is_fine(tmp_path: Path) -> None:
    check_address(Server(uds=str(tmp_path / "daemon.sock")))


def test_a_socket_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot listen"):
        check_address(Server(uds=str(tmp_path / "file" / "daemon.sock")))


def test_an_address_of_another_machine_is_refused_and_no_daemon_is_blamed(
    listener: socket.socket,
) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(SettingsError, match=r"Cannot assign .* Choose another address"):
        check_address(Server(host="192.0.2.1", port=port))


@pytest.mark.parametrize(
    ("path", "why"),
    [("/no/such/directory/x.sock", "is no directory to write in"), (LONG, "path too long")],
)
def test_a_socket_that_cannot_be_made_is_refused_with_the_reason(path: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        check_address(Server(uds=path))


def test_whoever_takes_no_more_connections_holds_nobody_up(tmp_path: Path) -> None:
    path = str(tmp_path / "daemon.sock")
    with socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as only:
        hanging.bind(path)
        hanging.listen(0)
        only.connect(path)
        with pytest.raises(SettingsError, match="hangs"):
            check_address(Server(uds=path))
