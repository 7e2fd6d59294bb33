"""A daemon that notes how old each token is when its server has its bytes:
`python -m benchmarks.handover FILE --port PORT`.

It is `lemonade-serve serve` but for two notes a token: when the worker had sampled it (`Token.at`,
on the system's monotonic clock), and when its bytes have been handed to Granian. When the daemon
ends, FILE has them all.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from array import array
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from weakref import WeakKeyDictionary

from litestar.types import Message, Receive, Scope, Send

from lemonade_serve.api.access import Access
from lemonade_serve.cli.daemon import run_daemon
from lemonade_serve.domain.completion import Finished, Generation, Token
from lemonade_serve.settings import load_settings

_next, _answer = Generation.next, Access.__call__


class Handover(NamedTuple):
    """When the bytes of a token were handed over, in seconds of `time.monotonic`, and how long
    after it had been sampled."""

    at: float
    took: float


class Notes:
    """The handovers of the event loop that runs it. One task reads a token and sends its bytes."""

    def __init__(self) -> None:
        self.numbers = array("d")
        self._unsent: WeakKeyDictionary[asyncio.Task[object], float] = WeakKeyDictionary()

    async def next(
        self, generation: Generation, timeout_s: float | None = None
    ) -> Token | Finished:
        event = await _next(generation, timeout_s)
        task = asyncio.current_task()
        if task and isinstance(event, Token) and event.text:
            self._unsent[task] = event.at
        return event

    async def answer(self, access: Access, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            await send(message)
            task = asyncio.current_task()
            if task and message["type"] == "http.response.body":
                sampled, now = self._unsent.pop(task, None), time.monotonic()
                if sampled is not None:
                    self.numbers.extend((now, now - sampled))

        await _answer(access, scope, receive, noted)


def read(file: Path) -> list[Handover]:
    """What such a daemon left behind."""
    numbers = array("d", file.read_bytes())
    return [Handover(*numbers[n : n + 2]) for n in range(0, len(numbers), 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    notes = Notes()

    async def next(generation: Generation, timeout_s: float | None = None) -> Token | Finished:
        return await notes.next(generation, timeout_s)

    async def answer(access: Access, scope: Scope, receive: Receive, send: Send) -> None:
        await notes.answer(access, scope, receive, send)

    with patch.object(Generation, "next", next), patch.object(Access, "__call__", answer):
        asyncio.run(run_daemon(load_settings(flags={"server": {"port": given.port}})))
    given.file.write_bytes(notes.numbers.tobytes())


if __name__ == "__main__":
    main()
