"""Memory that is filled comes to lie in huge pages, with what is in it."""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemonade_serve.worker.engines.pages import begin_settling, settle

HUGE = 2 << 20
LENGTH = 5 * HUGE
PATTERN = bytes(range(256)) * 16

_LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))

pytestmark = pytest.mark.skipif(
    _LINUX < (6, 1) or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="the kernel moves nothing to huge pages: that takes Linux 6.1",
)


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Nobody's yet, and with room for four huge pages, wherever it begins."""
    with mmap.mmap(-1, LENGTH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_DONTFORK)  # unlike its neighbours', so that it stays apart
        yield memory


def huge_bytes(memory: mmap.mmap) -> int:
    """How many of its bytes lie in huge pages."""
    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    del view  # or it could not be closed
    rows = Path("/proc/self/smaps").read_text().splitlines()
    begin = next(n for n, row in enumerate(rows) if row.startswith(f"{address:x}-"))
    found = next(row for row in rows[begin:] if row.startswith("AnonHugePages:"))
    return int(found.split()[1]) * 1024


def fill(memory: mmap.mmap) -> None:
    """In small pages, as yet."""
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for place in range(0, LENGTH, len(PATTERN)):
        memory[place : place + len(PATTERN)] = PATTERN


def test_what_is_filled_moves_and_stays_what_it_is(memory: mmap.mmap) -> None:
    fill(memory)
    memory.madvise(mmap.MADV_HUGEPAGE)
    assert huge_bytes(memory) == 0
    assert settle() >= 4 * HUGE
    assert huge_bytes(memory) >= 4 * HUGE
    assert memory[:] == PATTERN * (LENGTH // len(PATTERN))


def test_whoever_loads_does_not_wait_for_it(memory: mmap.mmap) -> None:
    fill(memory)
    memory.madvise(mmap.MADV_HUGEPAGE)
    begin_settling()
    for thread in threading.enumerate():
        if thread.name == "settling":
            thread.join(30)
    assert huge_bytes(memory) >= 4 * HUGE


def test_what_has_holes_stays_as_it_is(memory: mmap.mmap) -> None:
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for place in range(0, LENGTH, 2 * mmap.PAGESIZE):
        memory[place] = 1
    memory.madvise(mmap.MADV_HUGEPAGE)
    settle()
    assert huge_bytes(memory) == 0
    assert memory[mmap.PAGESIZE] == 0


def test_what_wants_small_pages_keeps_them(memory: mmap.mmap) -> None:
    """As the KV cache does."""
    fill(memory)
    settle()
    assert huge_bytes(memory) == 0
