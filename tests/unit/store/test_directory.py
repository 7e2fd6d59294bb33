"""Whose state directory it is; the other one is a real process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.store.directory import StateDirectory

HOLD = """
import sys
from pathlib import Path
from lemonade_serve.store.directory import StateDirectory
with StateDirectory(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_daemon(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lemonade"
    with StateDirectory(path) as directory:
        assert directory.path == path
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600


def test_a_second_daemon_is_told_who_has_it(tmp_path: Path) -> None:
    with another_daemon(tmp_path) as other:
        with pytest.raises(errors.SettingsError) as raised, StateDirectory(tmp_path):
            pass
        assert raised.value.message == (
            f"another daemon (pid {other.pid}) uses {tmp_path}: stop it, or name another one "
            "with --state-dir / LEMONADE_STATE_DIR"
        )


def test_it_is_free_when_its_daemon_is_killed(tmp_path: Path) -> None:
    with another_daemon(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with StateDirectory(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_who_had_it_before_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("99999999999\n")
    with StateDirectory(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_it_is_free_when_its_daemon_lets_go(tmp_path: Path) -> None:
    with StateDirectory(tmp_path):
        pass
    with another_daemon(tmp_path), pytest.raises(errors.SettingsError), StateDirectory(tmp_path):
        pass


def test_its_children_do_not_have_it(tmp_path: Path) -> None:
    with StateDirectory(tmp_path):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with StateDirectory(tmp_path):
        child.communicate()


def test_two_daemons_may_have_two(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "one"), StateDirectory(tmp_path / "other"):
        pass


def test_what_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("")
    with pytest.raises(errors.SettingsError, match="state: File exists"), StateDirectory(path):
        pass
