"""How a child process is started, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lemonade_serve.protocol.messages import Cancel
from lemonade_serve.runtime.child import Child, ChildError
from tests.fakes import asynchronous
from tests.unit.runtime.conftest import MODULE, Behave


async def start(*, within: float = 8.0, **told: Any) -> Child:
    return await Child.start("whatever", handshake_timeout_s=within, **told)


def children() -> list[int]:
    """Ours; the daemon that other suites share is a child of this process too."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE or MODULE in process.cmdline():
                found.append(process.pid)
    return found


@asynchronous
async def test_a_child_that_says_hello_is_there_until_it_is_stopped(behave: Behave) -> None:
    behave("obedient")
    child = await start()
    assert children() == [child.pid]
    child.send(Cancel(1))
    assert await child.stop(8) == "exit code 0"
    assert children() == []


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("dies", "ended at start: exit code 3"),
        ("killed", "ended at start: killed by SIGKILL"),
        ("outdated", "restart the daemon"),
        ("rude", "restart the daemon"),
        ("nonsense", "ended at start: .*malformed"),
    ],
)
def test_a_child_that_does_not_begin_well_is_an_error_and_gone(
    behave: Behave, behaviour: str, says: str
) -> None:
    behave(behaviour)
    with pytest.raises(ChildError, match=says):
        asyncio.run(start())
    assert children() == []


@pytest.mark.parametrize("behaviour", ["silent", "mute"])
def test_a_child_that_says_nothing_is_killed_in_time(behave: Behave, behaviour: str) -> None:
    behave(behaviour)
    with pytest.raises(ChildError, match=r"no handshake within 0\.05 s"):
        asyncio.run(start(within=0.05))
    assert children() == []


@asynchronous
async def test_whoever_gives_up_on_a_start_leaves_no_child(behave: Behave) -> None:
    behave("mute")
    starting = asyncio.create_task(start())
    while not children():  # noqa: ASYNC110, the child's own doing
        await asyncio.sleep(0.001)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert children() == []


@asynchronous
async def test_a_child_that_does_not_hear_the_end_of_file_is_killed(behave: Behave) -> None:
    behave("deaf")
    child = await start()
    assert await child.stop(0.05) == "killed by SIGKILL"
    assert children() == []


@asynchronous
async def test_a_child_may_be_stopped_twice_at_the_same_time(behave: Behave) -> None:
    behave("obedient")
    child = await start()
    first, second = await asyncio.gather(child.stop(8), child.stop(8))
    assert first == second == "exit code 0"


@asynchronous
async def test_a_kill_is_carried_out_although_its_caller_gives_up(behave: Behave) -> None:
    behave("deaf")
    child = await start()
    killing = asyncio.create_task(child.kill())
    await asyncio.sleep(0)
    killing.cancel()
    await asyncio.wait({killing})
    assert await child.reap() == "killed by SIGKILL"


@asynchronous
async def test_a_child_that_died_is_the_end_of_its_frames(behave: Behave) -> None:
    behave("obedient")
    child = await start()
    os.kill(child.pid, signal.SIGKILL)
    assert await child.receive() is None
    assert await child.reap() == "killed by SIGKILL"


@asynchronous
async def test_what_is_sent_to_a_child_that_is_gone_goes_nowhere(behave: Behave) -> None:
    behave("obedient")
    child = await start()
    await child.kill()
    child.send(Cancel(1))


@asynchronous
async def test_a_child_keeps_no_file_of_ours_but_its_socket(behave: Behave, tmp_path: Path) -> None:
    behave("obedient")
    with (tmp_path / "ours").open("w"):
        child = await start()
        held = os.listdir(f"/proc/{child.pid}/fd")  # noqa: PTH208
        files = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in held]  # noqa: PTH115
    assert not [file for file in files if str(tmp_path) in file]
    assert len([file for file in files if file.startswith("socket:")]) == 1
    await child.stop(8)


@asynchronous
async def test_a_child_has_the_files_that_it_shares_and_is_told_so(
    behave: Behave, tmp_path: Path
) -> None:
    behave("obedient")
    with (tmp_path / "shared").open("w") as shared:
        number = shared.fileno()
        child = await start(arguments=("x", str(number)), inherited=(number,))
    assert os.readlink(f"/proc/{child.pid}/fd/{number}") == str(tmp_path / "shared")  # noqa: PTH115
    assert psutil.Process(child.pid).cmdline()[-2:] == ["x", str(number)]
    await child.stop(8)
