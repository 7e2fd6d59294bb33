"""Which checkpoints are resident, and who may use them when."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.ports import Worker
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.residency.slot import SlotState
from lemonade_serve.protocol.messages import ResolvedParams, TextPrompt
from tests.fakes import FakeClock, FakeLauncher, RecordingObserver, asynchronous, checkpoint, until

SMALL, LARGE = checkpoint("small"), checkpoint("large")
PRIVATE: dict[str, Any] = {"unload_timeout_s": 60.0, "max_requests": 4}


class House:
    """A pool and what stands around it."""

    def __init__(self, **bounds: Any) -> None:
        self.launcher = FakeLauncher()
        self.observer = RecordingObserver()
        self.pool = Pool(self.launcher, self.observer, clock=FakeClock(), **{**PRIVATE, **bounds})
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def resident(self) -> list[str]:
        return [slot.info.name for slot in self.pool.slots()]

    @property
    def states(self) -> list[SlotState]:
        return [slot.state for slot in self.pool.slots()]

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin something, as far as it goes by itself."""
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    async def use(self, info: CheckpointInfo = SMALL, device: Device = Device.CPU) -> Worker:
        """A request that is over at once."""
        async with self.pool.acquire(info, device) as (worker, _):
            return worker

    @asynccontextmanager
    async def running(self, info: CheckpointInfo = SMALL) -> AsyncIterator[asyncio.Event]:
        """A request that runs until it is told to finish."""
        began, finish = asyncio.Event(), asyncio.Event()

        async def request() -> None:
            async with self.pool.acquire(info, Device.CPU):
                began.set()
                await finish.wait()

        task = self.start(request())
        await began.wait()
        yield finish
        finish.set()
        await task


async def settled() -> None:
    """Let everyone else go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynchronous
async def test_the_first_request_loads_and_the_next_one_finds_it() -> None:
    house = House()
    first, second = await house.use(), await house.use()
    assert first is second
    assert house.launcher.launches == [(SMALL, Device.CPU)]
    assert house.observer.events == [
        events.CheckpointLoaded(
            model="small", device="cpu", dtype="int4", engine="fake", pid=4000, load_s=0.5
        )
    ]


@asynchronous
async def test_requests_that_come_while_it_loads_share_the_load() -> None:
    house = House()
    house.launcher.hold()
    requests = [house.start(house.use()) for _ in range(3)]
    await house.launcher.launching.wait()
    assert house.states == [SlotState.LOADING]
    house.launcher.go()
    workers = await asyncio.gather(*requests)
    assert len(set(map(id, workers))) == len(house.launcher.launches) == 1
    assert house.states == [SlotState.RESIDENT]


@asynchronous
async def test_a_failed_load_wakes_every_waiter() -> None:
    house = House()
    house.launcher.hold()
    house.launcher.failure = errors.ModelLoadError("the file is cut")
    requests = [house.start(house.use()) for _ in range(3)]
    await house.launcher.launching.wait()
    house.launcher.go()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the file is cut"] * 3
    assert house.resident == []
    assert house.observer.events == [
        events.CheckpointLoadFailed(
            model="small", device="cpu", dtype="int4", reason="the file is cut"
        )
    ]


@asynchronous
async def test_the_request_after_a_failed_load_loads_again() -> None:
    house = House()
    house.launcher.failure = errors.ModelLoadError("not yet")
    with pytest.raises(errors.ModelLoadError):
        await house.use()
    house.launcher.failure = None
    await house.use()
    assert len(house.launcher.launches) == 2


@asynchronous
async def test_a_failed_load_leaves_the_others_alone() -> None:
    house = House()
    await house.use(SMALL)
    house.launcher.failure = errors.ModelLoadError("no")
    with pytest.raises(errors.ModelLoadError):
        await house.use(LARGE)
    assert house.resident == ["small"]
    assert len(house.launcher.alive) == 1


@asynchronous
async def test_a_load_delays_no_request_for_what_is_resident() -> None:
    house = House()
    await house.use(SMALL)
    house.launcher.hold()
    loading = house.start(house.use(LARGE))
    await until(lambda: len(house.launcher.launches) == 2)
    await house.use(SMALL)
    assert not loading.done()
    house.launcher.go()
    await loading


@asynchronous
async def test_a_waiter_who_leaves_does_not_stop_the_load() -> None:
    house = House()
    house.launcher.hold()
    leaving, staying = house.start(house.use()), house.start(house.use())
    await until(lambda: [len(slot.leases) for slot in house.pool.slots()] == [2])
    leaving.cancel()
    await asyncio.wait({leaving})
    assert [len(slot.leases) for slot in house.pool.slots()] == [1]
    house.launcher.go()
    assert await staying is house.launcher.workers[0]
    assert house.launcher.cancelled == 0
    assert [len(slot.leases) for slot in house.pool.slots()] == [0]


@asynchronous
async def test_a_load_that_everyone_left_still_serves_the_next_one() -> None:
    house = House()
    house.launcher.hold()
    leaving = house.start(house.use())
    await house.launcher.launching.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    house.launcher.go()
    await house.use()
    assert len(house.launcher.launches) == 1


@asynchronous
async def test_a_request_over_the_bound_is_refused_at_once() -> None:
    house = House(max_requests=2)
    async with house.running(), house.running():
        with pytest.raises(errors.QueueFull, match="2 requests"):
            await house.use()
    await house.use()


@asynchronous
async def test_requests_that_wait_for_the_load_count_too() -> None:
    house = House(max_requests=1)
    house.launcher.hold()
    waiting = house.start(house.use())
    await house.launcher.launching.wait()
    with pytest.raises(errors.QueueFull):
        await house.use()
    house.launcher.go()
    await waiting


@asynchronous
async def test_the_bound_is_each_checkpoints_own() -> None:
    house = House(max_requests=1)
    async with house.running(SMALL):
        await house.use(LARGE)


@asynchronous
async def test_an_error_in_a_request_gives_its_lease_back() -> None:
    house = House(max_requests=1)
    with pytest.raises(errors.GenerationFailed):
        async with house.pool.acquire(SMALL, Device.CPU):
            raise errors.GenerationFailed
    await house.use()


@asynchronous
async def test_the_most_recently_used_comes_first() -> None:
    house = House()
    await house.use(SMALL)
    await house.use(LARGE)
    assert house.resident == ["large", "small"]
    await house.use(SMALL)
    assert house.resident == ["small", "large"]


@asynchronous
async def test_a_request_counts_as_use_until_it_is_over() -> None:
    house = House()
    async with house.running(SMALL):
        await house.use(LARGE)
        assert house.resident == ["large", "small"]
    assert house.resident == ["small", "large"]


@asynchronous
async def test_looking_is_not_using() -> None:
    house = House()
    await house.use(SMALL)
    await house.use(LARGE)
    before = [slot.last_use for slot in house.pool.slots()]
    assert [slot.last_use for slot in house.pool.slots()] == before


@asynchronous
async def test_one_checkpoint_on_two_devices_is_two_slots() -> None:
    house = House()
    cpu, npu = await house.use(SMALL, Device.CPU), await house.use(SMALL, Device.NPU)
    assert cpu is not npu
    assert await house.pool.unload(device=Device.NPU) == 1
    assert [slot.device for slot in house.pool.slots()] == [Device.CPU]


@asynchronous
async def test_an_unload_of_what_is_idle_ends_its_worker() -> None:
    house = House()
    await house.use()
    assert await house.pool.unload() == 1
    assert (house.resident, house.launcher.alive) == ([], [])
    assert house.observer.names == ["CheckpointLoaded", "CheckpointUnloaded"]


@asynchronous
async def test_an_unload_of_nothing_is_success() -> None:
    house = House()
    await house.use(SMALL)
    assert await house.pool.unload(model="large") == 0
    assert house.resident == ["small"]


@asynchronous
async def test_an_unload_takes_what_it_names() -> None:
    house = House()
    await house.use(SMALL)
    await house.use(LARGE)
    assert await house.pool.unload(model="small") == 1
    assert house.resident == ["large"]


@asynchronous
async def test_an_unload_waits_for_running_requests() -> None:
    house = House()
    async with house.running() as finish:
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        await settled()
        assert not unloading.done()
        assert len(house.launcher.alive) == 1
        finish.set()
        assert await unloading == 1
    assert house.launcher.alive == []


@asynchronous
async def test_an_unload_waits_a_bounded_time() -> None:
    house = House(unload_timeout_s=0.001)
    async with house.running():
        assert await house.pool.unload() == 1
        assert house.launcher.alive == []


@asynchronous
async def test_a_forced_unload_waits_for_nobody() -> None:
    house = House()
    async with house.running():
        assert await house.pool.unload(force=True) == 1
        assert house.launcher.alive == []


@asynchronous
async def test_force_cuts_short_an_unload_that_waits() -> None:
    house = House()
    async with house.running():
        patient = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        await house.pool.unload(force=True)
        assert house.launcher.alive == []
    assert await patient == 1
    assert house.observer.names == ["CheckpointLoaded", "CheckpointUnloaded"]


@asynchronous
async def test_an_unload_during_a_load_lets_its_waiters_finish() -> None:
    house = House()
    house.launcher.hold()
    waiting = house.start(house.use())
    await house.launcher.launching.wait()
    unloading = house.start(house.pool.unload())
    await settled()
    assert not unloading.done()
    house.launcher.go()
    assert await waiting is house.launcher.workers[0]
    await unloading
    assert (house.resident, house.launcher.alive) == ([], [])


@asynchronous
async def test_a_forced_unload_during_a_load_stops_it() -> None:
    house = House()
    house.launcher.hold()
    waiting = house.start(house.use())
    await house.launcher.launching.wait()
    await house.pool.unload(force=True)
    with pytest.raises(errors.Unavailable, match="unloaded while it was loading"):
        await waiting
    assert house.launcher.cancelled == 1
    assert (house.resident, house.launcher.workers) == ([], [])


@asynchronous
async def test_a_request_that_comes_while_it_leaves_loads_it_anew() -> None:
    house = House()
    async with house.running() as finish:
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        late = [house.start(house.use()) for _ in range(2)]
        await settled()
        assert len(house.launcher.launches) == 1
        finish.set()
        await unloading
        workers = await asyncio.gather(*late)
    assert [id(worker) for worker in workers] == [id(house.launcher.workers[1])] * 2
    assert len(house.launcher.launches) == 2
    assert house.states == [SlotState.RESIDENT]


@asynchronous
async def test_a_lost_worker_is_no_longer_resident() -> None:
    house = House()
    await house.use()
    house.launcher.workers[0].die("killed by SIGSEGV")
    await house.observer.saw(events.WorkerExited)
    assert house.resident == []
    assert house.observer.events[-1] == events.WorkerExited(
        model="small", device="cpu", dtype="int4", reason="killed by SIGSEGV"
    )
    assert await house.use() is house.launcher.workers[1]


@asynchronous
async def test_a_lost_worker_is_removed_before_its_requests_hear_of_it() -> None:
    house = House()

    async def request() -> list[str]:
        async with house.pool.acquire(SMALL, Device.CPU) as (worker, _):
            with pytest.raises(errors.WorkerLost):
                await worker.generate(TextPrompt("x"), ResolvedParams(), lambda _: None)
            return house.resident

    await house.use()
    house.launcher.workers[0].hush()
    hearing = house.start(request())
    await house.launcher.workers[0].started.wait()
    house.launcher.workers[0].die()
    assert await hearing == []


@asynchronous
async def test_a_worker_that_dies_while_it_leaves_was_unloaded() -> None:
    house = House()
    async with house.running():
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        house.launcher.workers[0].die()
    assert await unloading == 1
    assert house.observer.names == ["CheckpointLoaded", "CheckpointUnloaded"]


@asynchronous
async def test_a_worker_that_died_at_once_is_not_kept() -> None:
    house = House()
    house.launcher.hold()
    request = house.start(house.use())
    await house.launcher.launching.wait()
    launch = house.launcher.launch

    async def stillborn(info: CheckpointInfo, device: Device) -> Worker:
        worker = await launch(info, device)
        worker.die()
        return worker

    house.launcher.launch = stillborn  # type: ignore[method-assign, assignment]
    await house.pool.unload(force=True)
    with pytest.raises(errors.Unavailable):
        await request
    house.launcher.go()
    await house.use()
    await house.observer.saw(events.WorkerExited)
    assert house.resident == []


@asynchronous
async def test_closing_cuts_everything() -> None:
    house = House()
    await house.use(SMALL)
    async with house.running(LARGE):
        await house.pool.close()
        assert (house.resident, house.launcher.alive) == ([], [])


@asynchronous
async def test_closing_while_something_loads_leaves_nothing() -> None:
    house = House()
    house.launcher.hold()
    waiting = house.start(house.use())
    await house.launcher.launching.wait()
    await house.pool.close()
    with pytest.raises(errors.Unavailable):
        await waiting
    house.launcher.go()
    await settled()
    assert (house.resident, house.launcher.workers) == ([], [])


@asynchronous
async def test_closing_leaves_nothing_for_those_who_wait_for_it_to_leave() -> None:
    house = House()
    async with house.running():
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        late = house.start(house.use())
        await settled()
        await house.pool.close()
    await unloading
    with pytest.raises(errors.Unavailable):
        await late
    assert (house.resident, house.launcher.alive) == ([], [])


@asynchronous
async def test_a_lease_says_whether_it_streams() -> None:
    house = House()
    async with house.pool.acquire(SMALL, Device.CPU, streaming=True) as (_, lease):
        assert lease.streaming
        assert not lease.running
        (slot,) = house.pool.slots()
        assert slot.leases == {lease}


@asynchronous
async def test_a_load_does_not_inherit_the_request_that_began_it() -> None:
    request_id = contextvars.ContextVar("request_id", default="none")
    seen: list[str] = []
    house = House()
    launch = house.launcher.launch

    async def watching(info: CheckpointInfo, device: Device) -> Worker:
        seen.append(request_id.get())
        return await launch(info, device)

    house.launcher.launch = watching  # type: ignore[method-assign, assignment]
    request_id.set("mine")
    await house.use()
    assert seen == ["none"]
