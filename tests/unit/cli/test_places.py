"""Directories and addresses: can a daemon have them."""

from __future__ import annotations

import fcntl
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lemonade_serve.cli.places import check_address, check_cache, check_state
from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server
from tests.unit.hub.graphs import put


class TestCache:
    def test_one_that_is_not_there_yet_says_how_to_fill_it(self, tmp_path: Path) -> None:
        (finding,) = check_cache(tmp_path / "cache")
        assert (finding.level, "not there yet" in finding.said) == (Level.WARN, True)
        assert "lemonade-serve import" in finding.advice
        assert not (tmp_path / "cache").exists()

    def test_one_that_is_empty_says_how_to_fill_it(self, tmp_path: Path) -> None:
        count, _ = check_cache(tmp_path)
        assert (count.level, count.said) == (Level.WARN, f"{tmp_path}: 0 checkpoints")
        assert "lemonade-serve import" in count.advice

    def test_its_checkpoints_are_counted_and_its_disk_is_looked_at(self, tmp_path: Path) -> None:
        put(tmp_path / "one" / "int4")
        put(tmp_path / "two" / "int4")
        count, disk = check_cache(tmp_path)
        assert count == Finding(Level.OK, "cache_dir", f"{tmp_path}: 2 checkpoints")
        assert "of disk" in disk.said

    def test_a_file_is_no_cache(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (finding,) = check_cache(tmp_path / "file")
        assert finding.level is Level.FAIL

    def test_one_that_is_read_only_still_serves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path / "one" / "int4")
        monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)  # root may all
        count, disk = check_cache(tmp_path)
        assert (count.level, disk.level) == (Level.OK, Level.WARN)
        assert "read-only" in disk.said


class TestState:
    def test_one_that_is_not_there_is_made_later(self, tmp_path: Path) -> None:
        finding = check_state(tmp_path / "a" / "b")
        assert (finding.level, "is made when" in finding.said) == (Level.OK, True)
        assert list(tmp_path.iterdir()) == []

    def test_one_below_a_file_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        finding = check_state(tmp_path / "file" / "state")
        assert finding.level is Level.FAIL
        assert "--state-dir" in finding.advice

    def test_a_daemons_lock_is_seen_and_left_alone(self, tmp_path: Path) -> None:
        free = Finding(Level.OK, "state_dir", f"{tmp_path} is writable, and no daemon uses it")
        assert check_state(tmp_path) == free
        lock = tmp_path / "lock"
        lock.write_text("4711\n")
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            finding = check_state(tmp_path)
            assert finding.said == f"{tmp_path} is in use by a daemon (pid 4711)"
            assert lock.read_text() == "4711\n"
        assert check_state(tmp_path) == free


class _Daemon(BaseHTTPRequestHandler):
    body = b'{"status":"ok"}'

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *_: object) -> None:
        """Says nothing."""


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("", 0)  # HTTP's handler wants a host and a port


class _Stranger(_Daemon):
    body = b"hello"


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that answers as the parameter does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TestAddress:
    @pytest.mark.parametrize("listening", [_Daemon], indirect=True)
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104
    def test_a_daemon_that_answers_is_fine(self, listening: int, host: str) -> None:
        assert check_address(Server(host=host, port=listening)) == Finding(
            Level.OK, "server", f"a daemon answers on {host} port {listening}"
        )

    @pytest.mark.parametrize("listening", [_Stranger], indirect=True)
    def test_another_program_is_in_the_way(self, listening: int) -> None:
        finding = check_address(Server(port=listening))
        assert (finding.level, "already in use" in finding.said) == (Level.FAIL, True)
        assert finding.advice.endswith("200, and no lemonade-serve")

    def test_one_that_does_not_answer_is_in_the_way(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            server = Server(port=silent.getsockname()[1])
            finding = check_address(server, timeout_s=0.01)
        assert finding.level is Level.FAIL
        assert finding.advice.endswith("timed out")

    def test_a_port_that_nobody_has_is_free(self, free_port: int) -> None:
        finding = check_address(Server(port=free_port))
        assert finding == Finding(Level.OK, "server", f"127.0.0.1 port {free_port} is free")

    @pytest.mark.parametrize("host", ["example.org", "[::1", "127.0.0.256"])
    def test_a_host_that_is_no_address_is_refused(self, free_port: int, host: str) -> None:
        with pytest.raises(SettingsError, match="must be an IP address"):
            check_address(Server(host=host, port=free_port))

    def test_an_address_that_is_not_ours_is_a_failure(self, free_port: int) -> None:
        finding = check_address(Server(host="192.0.2.1", port=free_port), timeout_s=0.01)
        assert finding.level is Level.FAIL
        assert "Choose another address with --host" in finding.said

    def test_a_socket_file_is_free_until_somebody_listens(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # a socket's path may not be long
        assert check_address(Server(uds="x.sock")).said == "x.sock is free"
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind("x.sock")
        assert check_address(Server(uds="x.sock")).said == "x.sock is free"
        assert Path("x.sock").is_socket()

    def test_a_daemon_that_answers_on_a_socket_is_fine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with _UnixServer("x.sock", _Daemon) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            finding = check_address(Server(uds="x.sock"))
            server.shutdown()
            thread.join()
        assert finding == Finding(Level.OK, "server", "a daemon answers on x.sock")

    def test_a_file_that_is_no_socket_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "x").touch()
        assert check_address(Server(uds=str(tmp_path / "x"))).level is Level.FAIL
        assert check_address(Server(uds=str(tmp_path / "none" / "x"))).level is Level.FAIL
