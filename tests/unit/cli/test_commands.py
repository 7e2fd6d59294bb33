"""The commands, as far as they go without a daemon."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lemonade_serve import __version__, errors
from lemonade_serve.cli import root
from lemonade_serve.cli.client import Piece
from tests.fakes import FakeJobRunner
from tests.unit.hub.graphs import put


def invoke(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(root.cli, arguments, input=stdin)


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


class TestList:
    def test_an_empty_cache_says_what_to_do(self, tmp_path: Path) -> None:
        result = invoke("list", "--cache-dir", str(tmp_path))
        assert result.exit_code == 0
        assert f"No checkpoint in {tmp_path}" in result.stdout
        assert "lemonade-serve import" in result.stdout

    def test_checkpoints_are_a_table_for_people(self, tmp_path: Path) -> None:
        put(tmp_path / "org" / "small" / "int4")
        result = invoke("list", "--cache-dir", str(tmp_path))
        header, row = result.stdout.splitlines()
        assert header.split() == ["MODEL", "DTYPE", "ARCHITECTURE", "CONTEXT", "SIZE"]
        assert row.split()[:4] == ["org/small", "int4", "llama", "2048"]

    def test_checkpoints_are_json_for_programs(self, tmp_path: Path) -> None:
        path = put(tmp_path / "small" / "fp32", "fp32")
        (row,) = json.loads(invoke("list", "--json", "--cache-dir", str(tmp_path)).stdout)
        assert (row["name"], row["dtype"], row["path"]) == ("small", "fp32", str(path))
        assert json.loads(invoke("list", "--json", "--cache-dir", "/nowhere").stdout) == []


class TestImport:
    @pytest.fixture
    def jobs(self, monkeypatch: pytest.MonkeyPatch) -> FakeJobRunner:
        jobs = FakeJobRunner(name="Tiny", dtype="int8")
        monkeypatch.setattr("lemonade_serve.cli.import_.create_job_runner", lambda _: jobs)
        return jobs

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "Tiny-Q8_0.gguf"
        file.touch()
        return file

    def test_a_file_is_imported_under_its_own_name(
        self, jobs: FakeJobRunner, file: Path, tmp_path: Path
    ) -> None:
        cache = tmp_path / "cache"
        result = invoke("import", str(file), "--cache-dir", str(cache), "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == {
            "model": "Tiny",
            "dtype": "int8",
            "path": str(cache / "Tiny" / "int8"),
        }
        assert [(job.source, job.dtype) for job in jobs.jobs] == [(str(file), "auto")]

    def test_the_name_and_the_dtype_may_be_said(
        self, jobs: FakeJobRunner, file: Path, tmp_path: Path
    ) -> None:
        options = ["--name", "org/tiny", "--dtype", "fp32", "--cache-dir", str(tmp_path / "cache")]
        result = invoke("import", str(file), *options)
        path = tmp_path / "cache" / "org" / "tiny" / "int8"
        assert result.stdout == f"Imported in int8: {path}\n"
        assert jobs.jobs[0].dtype == "fp32"

    def test_a_file_that_is_not_there_is_a_usage_error(self, tmp_path: Path) -> None:
        assert invoke("import", str(tmp_path / "nothing.gguf")).exit_code == 2


class TestRun:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
        """What was asked of a daemon that says `so on`."""
        asked: list[tuple[str, str, dict[str, Any]]] = []

        async def ask(url: str, path: str, body: dict[str, Any]) -> AsyncGenerator[Piece]:
            asked.append((url, path, body))
            for piece in (Piece(text="so"), Piece(text=" on"), Piece(completion_tokens=2)):
                yield piece

        monkeypatch.setattr("lemonade_serve.cli.run.ask", ask)
        return asked

    Asked = list[tuple[str, str, dict[str, Any]]]

    def test_a_question_is_asked_as_a_chat(self, asked: Asked) -> None:
        result = invoke("run", "small", "why?", "--system", "Be brief.", "--url", "http://x")
        assert result.stdout == "so on\n"
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}]
        assert asked == [
            ("http://x", "/v1/chat/completions", {"model": "small", "messages": turns})
        ]

    def test_a_raw_prompt_is_continued(self, asked: Asked) -> None:
        options = ["--raw", "--temperature", "0", "--max-tokens", "5", "--seed", "7"]
        invoke("run", "small", "Once", *options)
        ((_, path, body),) = asked
        assert path == "/v1/completions"
        assert body == {
            "model": "small",
            "prompt": "Once",
            "temperature": 0.0,
            "max_tokens": 5,
            "seed": 7,
        }

    @pytest.mark.parametrize("prompt", [[], ["-"]])
    def test_the_prompt_may_come_from_standard_input(self, asked: Asked, prompt: list[str]) -> None:
        invoke("run", "small", *prompt, "--raw", stdin="Once")
        assert asked[0][2]["prompt"] == "Once"

    def test_an_empty_prompt_is_a_usage_error(self, asked: Asked) -> None:
        assert invoke("run", "small", stdin="").exit_code == 2
        assert asked == []

    def test_an_answer_may_be_json(self, asked: Asked) -> None:
        result = invoke("run", "small", "why?", "--json")
        assert json.loads(result.stdout) == {
            "model": "small",
            "text": "so on",
            "completion_tokens": 2,
        }

    def test_figures_go_to_standard_error(self, asked: Asked) -> None:
        result = invoke("run", "small", "why?", "--stats")
        assert result.stdout == "so on\n"
        assert "2 tokens" in result.stderr


def test_an_error_of_the_command_reaches_main() -> None:
    result = invoke("run", "small", "why?", "--url", "http://127.0.0.1:1")
    assert isinstance(result.exception, errors.LemonadeError)
    assert "no daemon answers" in result.exception.message
