"""The command line as a whole: its help, its errors, its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from lemonade_serve import __version__
from lemonade_serve.cli import root
from tests.unit.cli.runner import invoke
from tests.unit.cli.scripted import ScriptedDaemon

NAMES = root.cli.list_commands(click.Context(root.cli))


def test_the_help_has_a_line_for_every_command() -> None:
    lines = [line.split() for line in invoke("--help").stdout.splitlines()]
    shown = [words[1] for words in lines if words[:1] == ["lemonade-serve"]]
    assert shown == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_what_the_list_calls_it(name: str) -> None:
    command = root.cli.get_command(click.Context(root.cli), name)
    assert command is not None
    assert command.name == name


@pytest.mark.parametrize("command", ["ps", "load", "params", "stats", "run"])
def test_asking_a_daemon_imports_no_web_server(command: str) -> None:
    code = (
        "import sys; from lemonade_serve.cli.root import cli\n"
        f"cli([{command!r}, '--help'], standalone_mode=False)\n"
        "sys.exit(' '.join({'litestar', 'granian', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


class TestMain:
    def exit(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
        monkeypatch.setattr("sys.argv", ["lemonade-serve", *arguments])
        with pytest.raises(SystemExit) as raised:
            root.main()
        return raised.value.code

    def test_an_error_is_one_line_and_a_status(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        file = tmp_path / "typo.toml"
        file.write_text("[server]\nprot = 1\n")
        assert self.exit(monkeypatch, "list", "--config", str(file)) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == (
            f"lemonade-serve: {file}: there is no setting server.prot; did you mean server.port?\n"
        )

    def test_a_wrong_command_is_a_usage_error(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.exit(monkeypatch, "sevre") == 2
        assert "sevre" in capsys.readouterr().err

    def test_success_is_no_status(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["lemonade-serve", "--version"])
        root.main()
        assert __version__ in capsys.readouterr().out

    def test_a_daemons_refusal_is_one_line_and_a_status(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        daemon: ScriptedDaemon,
    ) -> None:
        daemon.status, daemon.body = 404, {"status": "error", "message": "no such model: ghost"}
        assert self.exit(monkeypatch, "load", "ghost") == 1
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "lemonade-serve: no such model: ghost\n")
