"""How the daemon waits for its children."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from lemonade_serve.cli.daemon import wait_without_threads
from tests.fakes import asynchronous


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
