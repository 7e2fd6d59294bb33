"""`lemonade-serve healthcheck`: a line and an exit code, for whoever restarts what is not well."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.cli.runner import invoke
from tests.unit.cli.scripted import ScriptedDaemon, scripted

WELL = {"status": "ok"}
DRAINING = {"error": {"message": "The server is\nshutting down.", "code": "draining"}}


@pytest.fixture
def daemon() -> Iterator[ScriptedDaemon]:
    with scripted() as daemon:
        daemon.body = WELL
        yield daemon


def port_of(daemon: ScriptedDaemon) -> str:
    return daemon.url.rpartition(":")[2]


def test_a_daemon_that_is_well_is_exit_code_0_and_a_word(daemon: ScriptedDaemon) -> None:
    result = invoke("healthcheck", "--port", port_of(daemon))
    assert (result.exit_code, result.output) == (0, "ready\n")
    asked = daemon.only()
    assert (asked.method, asked.path) == ("GET", "/readyz")
    assert "authorization" not in asked.headers


def test_whether_it_is_alive_is_another_question(daemon: ScriptedDaemon) -> None:
    result = invoke("healthcheck", "--live", "--port", port_of(daemon))
    assert (result.exit_code, result.output) == (0, "live\n")
    assert daemon.only().path == "/livez"


def test_one_that_is_not_well_is_exit_code_1_and_its_reason(daemon: ScriptedDaemon) -> None:
    daemon.status, daemon.body = 503, DRAINING
    result = invoke("healthcheck", "--port", port_of(daemon))
    said = "not ready: 503 The server is shutting down.\n"
    assert (result.exit_code, result.output) == (1, said)


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", "", "[]", '{"error": "no"}'])
def test_whatever_else_answers_there_is_not_well(daemon: ScriptedDaemon, body: str) -> None:
    daemon.status, daemon.body = 502, body
    result = invoke("healthcheck", "--port", port_of(daemon))
    assert (result.exit_code, result.output) == (1, "not ready: 502\n")


def test_another_program_that_finds_all_well_is_no_daemon(daemon: ScriptedDaemon) -> None:
    daemon.body = "<html>Welcome</html>"
    result = invoke("healthcheck", "--port", port_of(daemon))
    assert (result.exit_code, result.output) == (1, "not ready: 200, and no lemonade-serve\n")


def test_nobody_there_is_exit_code_1() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        result = invoke("healthcheck", "--live", "--port", str(port))
    assert result.exit_code == 1
    assert result.output.startswith(f"not live: no answer from 127.0.0.1 port {port}: ")
    assert len(result.output.splitlines()) == 1


def test_a_daemon_that_says_nothing_in_time_is_not_well(daemon: ScriptedDaemon) -> None:
    daemon.silent = threading.Event()
    result = invoke("healthcheck", "--timeout", "0.05", "--port", port_of(daemon))
    daemon.silent.set()
    assert result.exit_code == 1
    assert "timed out" in result.output


@contextmanager
def dripping(path: Path) -> Iterator[threading.Event]:
    """An answer that never ends, a byte at a time; set when the one who asked has gone."""
    gone = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not gone.wait(0.001):
                connection.sendall(b"x")
        gone.set()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=drip)
        thread.start()
        yield gone
        gone.set()
        thread.join()


def test_an_answer_that_takes_too_long_as_a_whole_is_late_too(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with dripping(path) as gone:
        result = invoke("healthcheck", "--timeout", "0.2", "--uds", str(path))
        assert gone.wait(60)
    assert (result.exit_code, "timed out" in result.output) == (1, True)


def test_it_finds_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with scripted(path) as daemon:
        daemon.body = WELL
        assert invoke("healthcheck", "--uds", str(path)).exit_code == 0
    result = invoke("healthcheck", "--uds", str(tmp_path / "other.sock"))
    assert result.exit_code == 1
    assert "other.sock" in result.output


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104
def test_it_finds_the_daemon_by_its_settings(
    daemon: ScriptedDaemon, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lemonade.toml"
    file.write_text(f'[server]\nhost = "{host}"\n')
    monkeypatch.setenv("LEMONADE_SERVER__PORT", port_of(daemon))
    assert invoke("healthcheck", "--config", str(file)).exit_code == 0


def test_it_imports_little() -> None:
    code = (
        "import sys; from lemonade_serve.cli.root import cli\n"
        "cli(['healthcheck', '--help'], standalone_mode=False)\n"
        "heavy = {'litestar', 'granian', 'numpy', 'httpx', 'sqlalchemy', 'prometheus_client'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
