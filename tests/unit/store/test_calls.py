"""Who waits for a call, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from lemonade_serve import errors
from lemonade_serve.store.calls import Calls
from tests.fakes import asynchronous


class Work:
    """Runs until `go`."""

    def __init__(self) -> None:
        self._go = asyncio.Event()
        self.ended = asyncio.Event()
        self.done = False

    def go(self) -> None:
        self._go.set()

    async def __call__(self) -> str:
        try:
            await self._go.wait()
            self.done = True
        finally:
            self.ended.set()
        return "done"


@asynchronous
async def test_a_call_returns_what_its_work_does() -> None:
    work = Work()
    work.go()
    assert await Calls().run(work()) == "done"


@asynchronous
async def test_a_call_raises_what_its_work_does() -> None:
    async def refuse() -> None:
        raise errors.ClientLimit

    with pytest.raises(errors.ClientLimit):
        await Calls().run(refuse())


@asynchronous
async def test_work_goes_on_when_its_caller_leaves() -> None:
    calls, work = Calls(), Work()
    calling = asyncio.create_task(calls.run(work()))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling})
    assert calling.cancelled()
    work.go()
    await work.ended.wait()
    assert work.done


@asynchronous
async def test_work_goes_on_when_it_takes_too_long() -> None:
    calls, work = Calls(), Work()
    with pytest.raises(TimeoutError):
        await calls.run(work(), timeout_s=0.01)
    work.go()
    await work.ended.wait()
    assert work.done


@asynchronous
async def test_closing_waits_for_what_runs_and_takes_no_more() -> None:
    calls, work = Calls(), Work()
    calling = asyncio.create_task(calls.run(work()))
    await asyncio.sleep(0)
    closing = asyncio.create_task(calls.close(timeout_s=5))
    await asyncio.sleep(0)
    with pytest.raises(errors.StoreUnavailable):
        await calls.run(Work()())
    assert not closing.done()
    work.go()
    await closing
    assert await calling == "done"


@asynchronous
async def test_closing_cuts_what_does_not_end_in_time() -> None:
    calls, work = Calls(), Work()
    calling = asyncio.create_task(calls.run(work()))
    await asyncio.sleep(0)
    await calls.close(timeout_s=0.01)
    await work.ended.wait()
    assert not work.done
    with pytest.raises(asyncio.CancelledError):
        await calling
