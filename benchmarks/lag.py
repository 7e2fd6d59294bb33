"""A daemon whose event loop is watched: `python -m benchmarks.lag FILE --port PORT`.

It is `lemonade-serve serve` but for one more task, which wakes up after each millisecond and notes
how late it was. When the daemon ends, FILE has it all.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import threading
import time
from array import array
from pathlib import Path
from typing import NamedTuple

from lemonade_serve.cli.daemon import run_daemon
from lemonade_serve.settings import Settings, load_settings

_PERIOD_S = 0.001
_libc = ctypes.PyDLL(None)
_read = ctypes.create_string_buffer(64)


class Tick(NamedTuple):
    """One wake-up, and what the event loop's thread did since the last one, in seconds."""

    at: float
    """Of `time.perf_counter`, which is one clock for all processes."""
    late: float
    """The event loop's own timers are a millisecond coarse: less than 1.1 ms says nothing."""
    cpu: float
    """It ran."""
    starved: float
    """It could have run, and the operating system gave the cores to others."""

    @property
    def ours(self) -> float:
        """What of the lateness was not for want of a core: the process's own code ran, or a system
        call kept the thread, or a lock that another thread had, which may itself have been starved.
        """
        return max(0.0, self.late - self.starved)


class Watch:
    """The ticks of the event loop that runs it."""

    def __init__(self) -> None:
        self.numbers = array("d")

    async def run(self) -> None:
        books = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        last = _account(books)
        while True:
            await asyncio.sleep(_PERIOD_S)
            now = _account(books)
            at, cpu, starved = (new - old for new, old in zip(now, last, strict=True))
            self.numbers.extend((now[0], at - _PERIOD_S, cpu, starved))
            last = now


def read(file: Path) -> list[Tick]:
    """What a watched daemon left behind."""
    numbers = array("d", file.read_bytes())
    return [Tick(*numbers[n : n + 4]) for n in range(0, len(numbers), 4)]


def _account(books: int) -> tuple[float, float, float]:
    """Now, what this thread ran so far, and what it was starved, all of one moment."""
    starved = _starved(books)
    while True:
        moment = time.perf_counter(), time.thread_time(), starved
        if (starved := _starved(books)) == moment[2]:
            return moment


def _starved(books: int) -> float:
    """See Documentation/scheduler/sched-stats.rst of Linux: time on a run queue, in ns. Read
    without letting go of Python's lock: that would be one more occasion to wait for it."""
    _libc.pread(books, _read, len(_read), 0)
    return int(_read.value.split()[1]) / 1e9


async def _serve(settings: Settings, watch: Watch) -> None:
    watching = asyncio.create_task(watch.run(), name="watch")
    try:
        await run_daemon(settings)
    finally:
        watching.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    watch = Watch()
    asyncio.run(_serve(load_settings(flags={"server": {"port": given.port}}), watch))
    given.file.write_bytes(watch.numbers.tobytes())


if __name__ == "__main__":
    main()
