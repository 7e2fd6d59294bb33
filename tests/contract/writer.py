"""Processes that write to a store, to be killed or starved while they do."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import resource
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lemonade_serve import errors
from lemonade_serve.settings import Options
from lemonade_serve.store.database import DatabaseParamsStore

MODELS = 5
"""Number n is written for model n % MODELS."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.contract.writer"])


def numbered(number: int) -> Options:
    """More than a page of a database, all of which says the number."""
    return Options(seed=number, max_length=number + 1, stop=[f"{number:256}"] * 16)


def start(target: Any, *arguments: Any) -> tuple[BaseProcess, Connection]:
    """The process, and where it tells what it has done."""
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def write_numbers(where: Path | str, first: int, acknowledge: Connection) -> None:
    """One after the other, and tells each that is written."""

    async def write() -> None:
        async with DatabaseParamsStore.open(where, max_clients=1, timeout_s=5) as store:
            for number in itertools.count(first):
                await _write(store, number)
                acknowledge.send(number)

    asyncio.run(write())


def fill_the_disk(where: Path, tell: Connection) -> None:
    """Writes until no file may grow, tells what was written and how it ended, then writes on."""

    async def fill() -> None:
        async with DatabaseParamsStore.open(where, max_clients=1, timeout_s=5) as store:
            unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
            size = sum(file.stat().st_size for file in where.parent.iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, unlimited[1]))
            for number in itertools.count():
                try:
                    await _write(store, number)
                except errors.LemonadeError as error:
                    tell.send((number, type(error).__name__))
                    break
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            kept = [await store.get("client", f"m{n}") for n in range(MODELS)]
            tell.send(sorted(options.seed for options in kept))
            await _write(store, number)
            tell.send((await store.get("client", f"m{number % MODELS}")).seed)

    asyncio.run(fill())


async def _write(store: DatabaseParamsStore, number: int) -> None:
    await store.edit("client", f"m{number % MODELS}", lambda _: numbered(number))
