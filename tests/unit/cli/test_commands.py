"""The commands about checkpoints on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes import FakeJobRunner
from tests.unit.cli.runner import invoke
from tests.unit.hub.graphs import put


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
        columns = ["MODEL", "DTYPE", "ARCHITECTURE", "CONTEXT", "SIZE", "REVISION"]
        assert header.split() == columns
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

    def test_what_is_here_already_is_not_imported_again_if_so_asked(
        self, jobs: FakeJobRunner, file: Path, tmp_path: Path
    ) -> None:
        path = put(tmp_path / "cache" / "org" / "mine" / "int8", "int8")
        (path / "provenance.json").write_text(f'{{"dtype": "int8", "source_file": "{file.name}"}}')
        command = ["import", str(file), "--if-missing", "--cache-dir", str(tmp_path / "cache")]
        assert invoke(*command).stdout == f"{file} is here already: {path}\n"
        said = json.loads(invoke(*command, "--dtype", "int8", "--json").stdout)
        assert said == {"model": "org/mine", "dtype": "int8", "path": str(path)}
        assert jobs.jobs == []
        for more in (["--dtype", "fp32"], ["--name", "other"]):
            assert "Imported in int8" in invoke(*command, *more).stdout
        assert len(jobs.jobs) == 2

    def test_none_is_nothing(self, jobs: FakeJobRunner, tmp_path: Path) -> None:
        result = invoke("import", "none", "--cache-dir", str(tmp_path / "cache"))
        assert (result.exit_code, result.stdout) == (0, "")
        assert "Nothing is imported" in result.stderr
        assert not list(tmp_path.iterdir())

    def test_a_file_that_is_not_there_is_a_usage_error(self, tmp_path: Path) -> None:
        assert invoke("import", str(tmp_path / "nothing.gguf")).exit_code == 2
