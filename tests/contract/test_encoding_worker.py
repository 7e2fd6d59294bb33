"""What every `Worker` of an encoder keeps to, the fake and the process alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.ports import Worker
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.protocol.messages import Begun, Encoded, Encoding, TextPrompt, TokensPrompt
from tests.contract.test_worker import House, kill_fake, kill_process, lost, processes
from tests.encoders import put
from tests.fakes import FakeLauncher, asynchronous, encoder

WORK = Encoding((TextPrompt("a lemon"), TextPrompt("sour"), TextPrompt("sugar is sweet")))


@pytest.fixture(params=["fake", "process"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], House]]:
    """Builds the house on the loop of the test."""
    if request.param == "fake":
        yield lambda: House(FakeLauncher(), encoder(), kill_fake)
        return
    put(tmp_path / "embedder")
    info = DiskCatalog(tmp_path).find("embedder", "auto")
    with processes() as launcher:
        yield lambda: House(launcher, info, kill_process)


async def asked(worker: Worker, work: Encoding = WORK) -> list[Begun | Encoded]:
    heard: list[Begun | Encoded] = []
    await worker.encode(work, heard.append)
    return heard


@asynchronous
async def test_a_request_begins_and_each_input_is_encoded_once(house: Callable[[], House]) -> None:
    worker = await house().launch()
    begun, *encoded = await asked(worker)
    assert isinstance(begun, Begun)
    told = [event for event in encoded if isinstance(event, Encoded)]
    assert len(told) == len(encoded)
    assert sorted(event.index for event in told) == [0, 1, 2]
    assert all(event.tokens >= 1 and len(event.values) >= 4 for event in told)
    assert worker.ready.engine
    assert worker.ready.kv_cache_bytes >= 0
    await worker.stop(errors.Draining())


@asynchronous
async def test_requests_run_side_by_side_and_know_their_own(house: Callable[[], House]) -> None:
    worker = await house().launch()
    answers = await asyncio.gather(*(asked(worker) for _ in range(8)))
    for events in answers:
        assert len(events) == 4
    values = [
        {event.index: event.values for event in events if isinstance(event, Encoded)}
        for events in answers
    ]
    assert values == [values[0]] * 8
    await worker.stop(errors.Draining())


@asynchronous
async def test_what_cannot_be_read_is_refused_and_hurts_no_other(
    house: Callable[[], House],
) -> None:
    worker = await house().launch()
    with pytest.raises(errors.InvalidRequest):
        await asked(worker, Encoding((TokensPrompt((-1,)),)))
    assert len(await asked(worker)) == 4
    await worker.stop(errors.Draining())


@asynchronous
async def test_one_given_up_hurts_no_other(house: Callable[[], House]) -> None:
    worker = await house().launch()
    many = Encoding(WORK.inputs * 200)
    heard: list[Begun | Encoded] = []
    began = asyncio.Event()

    def deliver(event: Begun | Encoded) -> None:
        heard.append(event)
        began.set()

    async def encode() -> None:
        await worker.encode(many, deliver)

    leaving = asyncio.create_task(encode())
    await began.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    count = len(heard)
    assert len(await asked(worker)) == 4
    assert len(heard) == count < 601
    await worker.stop(errors.Draining())


@asynchronous
async def test_a_worker_that_dies_takes_no_more(house: Callable[[], House]) -> None:
    open_house = house()
    worker = await open_house.launch()
    open_house.kill(worker)
    await worker.exited
    assert isinstance(await lost(asked(worker)), errors.WorkerLost)
