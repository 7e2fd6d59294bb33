"""One computes at a time, across processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lemonade_serve.worker.turnstile import Turnstile
from tests.daemon import eventually

_CHILD = """
import os, sys
from lemonade_serve.worker.turnstile import Turnstile
turnstile = Turnstile(
    int(sys.argv[1]), lane=int(sys.argv[2]), timeout_s=float(sys.argv[3])
)
for line in sys.stdin:
    if line == "many\\n":
        for _ in range(200):
            with turnstile.turn():
                os.write(1, b"in\\n")
                os.write(1, b"out\\n")
        os.write(1, b"done\\n")
        continue
    with turnstile.turn():
        os.write(1, b"in\\n")
        sys.stdin.readline()
    os.write(1, b"out\\n")
"""


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("turnstile")
    yield descriptor
    os.close(descriptor)


class Other:
    """Another process that has the file."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._said = process.stdout

    def say(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._said
        return self._said.readline().strip()

    def waits(self) -> bool:
        """Whether it waits for the cores: proc_locks(5)."""
        waiting = re.compile(rf"-> POSIX +ADVISORY +WRITE {self._process.pid} ")
        return bool(waiting.search(Path("/proc/locks").read_text()))

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextmanager
def other(
    file: int, lane: int = 0, said: int = subprocess.PIPE, timeout_s: float = 60
) -> Iterator[Other]:
    command = [sys.executable, "-c", _CHILD, str(file), str(lane), str(timeout_s)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=said, pass_fds=(file,), text=True) as process:
        try:
            yield Other(process)
        finally:
            process.kill()


def test_two_of_one_lane_are_never_in_together(file: int) -> None:
    reading, writing = os.pipe()
    with other(file, said=writing) as one, other(file, said=writing) as two:
        os.close(writing)
        one.say("many")
        two.say("many")
        with os.fdopen(reading) as both:
            said = []
            while said.count("done\n") < 2:
                said.append(both.readline())
    crossings = [word for word in said if word != "done\n"]
    assert crossings == ["in\n", "out\n"] * 400


def test_whoever_waits_comes_in_before_the_one_who_leaves_comes_again(file: int) -> None:
    with other(file) as one, other(file) as two:
        one.say("in")
        assert one.hear() == "in"
        two.say("in")
        eventually(two.waits)
        one.say("leave")
        one.say("in again")
        assert one.hear() == "out"
        assert two.hear() == "in"
        two.say("leave")
        assert two.hear() == "out"
        assert one.hear() == "in"


def test_lanes_do_not_wait_for_each_other(file: int) -> None:
    with other(file, lane=0) as one, other(file, lane=1) as two:
        one.say("in")
        two.say("in")
        assert one.hear() == two.hear() == "in"


def test_a_process_that_is_killed_leaves_the_cores(file: int) -> None:
    with other(file) as one, other(file) as two:
        one.say("in")
        assert one.hear() == "in"
        two.say("in")
        eventually(two.waits)
        one.kill()
        assert two.hear() == "in"


def test_one_that_stands_still_holds_nobody_up_for_ever(file: int) -> None:
    with other(file) as one, other(file, timeout_s=0.05) as two:
        one.say("in")
        assert one.hear() == "in"
        for _ in range(3):  # beside it, and again
            two.say("in")
            assert two.hear() == "in"
            two.say("leave")
            assert two.hear() == "out"
        one.say("leave")
        assert one.hear() == "out"
        two.say("in")
        assert two.hear() == "in"
        one.say("in")
        eventually(one.waits)
        two.say("leave")
        assert one.hear() == "in"


def test_an_error_leaves_the_cores(file: int) -> None:
    with pytest.raises(ZeroDivisionError), Turnstile(file, lane=0, timeout_s=60).turn():
        _ = 1 // 0
    with other(file) as one:
        one.say("in")
        assert one.hear() == "in"
