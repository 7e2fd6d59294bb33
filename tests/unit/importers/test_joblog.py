"""What libraries print while a job runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lemonade_serve.importers import joblog
from lemonade_serve.importers.joblog import JobLog


def test_lines_are_written_and_heard_and_progress_bars_are_heard_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    with JobLog(tmp_path / "log", heard.append):
        os.write(1, b"Reading layer 1\nSaving a:  10%|\rSaving b: ")
        os.write(2, b" 20%|\rwarning\n")
    assert (tmp_path / "log").read_text() == "Reading layer 1\nwarning\n"
    assert heard == ["Reading layer 1", "Saving a:  10%|", "Saving b:  20%|", "warning"]
    os.write(1, b"and after it as before\n")
    assert capfd.readouterr() == ("and after it as before\n", "")


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblog, "MAX_BYTES", 1000)
    with JobLog(tmp_path / "log", lambda line: None):
        for _ in range(1000):
            os.write(1, b"x" * 99 + b"\n")
    assert (tmp_path / "log").stat().st_size == 1000


def test_of_a_failure_the_last_lines_are_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no good"), JobLog(tmp_path / "log", lambda line: None):
        os.write(1, b"".join(b"line %d\n" % n for n in range(100)))
        raise ValueError("no good")
    lines = capfd.readouterr().err.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (40, "line 60", "line 99")
