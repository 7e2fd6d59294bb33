"""What the scheduler decides is done, and what happens comes back to it."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.domain.events import Departure
from lemonade_serve.domain.ports import Pin, Worker
from lemonade_serve.domain.residency.pool import Lease
from lemonade_serve.domain.residency.slot import SlotState
from lemonade_serve.protocol.messages import ResolvedParams, TextPrompt, Work
from tests.fakes import FakeLauncher, RecordingObserver, asynchronous, checkpoint, new_pool, until

SMALL, LARGE = checkpoint("small"), checkpoint("large")
TWO_DEVICES = {
    device: DeviceBudget(execution_provider="cpu", max_models=2, memory_bytes=1 << 40)
    for device in (Device.NPU, Device.CPU)
}
ROOM_FOR_ONE = {
    Device.CPU: DeviceBudget(execution_provider="cpu", max_models=1, memory_bytes=1 << 40)
}


class House:
    """A pool and what stands around it."""

    def __init__(self, **bounds: Any) -> None:
        self.launcher = FakeLauncher()
        self.observer = RecordingObserver()
        self.pool = new_pool(self.launcher, self.observer, **bounds)
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def resident(self) -> list[str]:
        return [view.model for view in self.pool.slots()]

    @property
    def states(self) -> list[SlotState]:
        return [view.state for view in self.pool.slots()]

    @property
    def waiting(self) -> int:
        return sum(view.waiting for view in self.pool.slots())

    def told(self, kind: type[events.Event]) -> list[events.Event]:
        return [event for event in self.observer.events if isinstance(event, kind)]

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin something, as far as it goes by itself."""
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    async def use(self, info: CheckpointInfo = SMALL, device: Device = Device.CPU) -> Worker:
        """A request that is over at once."""
        lease = self.pool.acquire(info, [device])
        try:
            return await lease.worker()
        finally:
            lease.release()

    @asynccontextmanager
    async def running(self, info: CheckpointInfo = SMALL) -> AsyncIterator[Lease]:
        """A request that runs for as long as the block."""
        lease = self.pool.acquire(info, [Device.CPU])
        try:
            await lease.worker()
            yield lease
        finally:
            lease.release()


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
    labels = {"model": "small", "device": "cpu", "dtype": "int4"}
    assert house.observer.events == [
        events.CheckpointRequested(resident=False, **labels),
        events.CheckpointLoading(reserved_bytes=1 << 20, **labels),
        events.CheckpointLoaded(
            engine="fake",
            engine_reason="it is a fake",
            pid=4000,
            load_s=0.5,
            memory_bytes=1 << 20,
            **labels,
        ),
        events.CheckpointRequested(resident=True, **labels),
    ]


@asynchronous
async def test_requests_that_come_while_it_loads_share_the_load() -> None:
    house = House()
    house.launcher.hold()
    requests = [house.start(house.use()) for _ in range(3)]
    await house.launcher.launching.wait()
    assert (house.states, house.waiting) == ([SlotState.LOADING], 3)
    house.launcher.go()
    workers = await asyncio.gather(*requests)
    assert len(set(map(id, workers))) == len(house.launcher.launches) == 1
    assert (house.states, house.waiting) == ([SlotState.RESIDENT], 0)


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
    (failed,) = house.told(events.CheckpointLoadFailed)
    assert failed == events.CheckpointLoadFailed(
        model="small", device="cpu", dtype="int4", reason="the file is cut"
    )


@asynchronous
async def test_a_launch_that_breaks_in_an_unforeseen_way_is_a_failed_load() -> None:
    house = House()
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    house.launcher.failure = ZeroDivisionError("with a secret in it")
    with pytest.raises(errors.ModelLoadError, match="ZeroDivisionError") as raised:
        await house.use()
    assert "secret" not in str(raised.value)
    assert [context["exception"] for context in logged] == [house.launcher.failure]
    assert house.resident == []


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
    await until(lambda: house.waiting == 2)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert house.waiting == 1
    house.launcher.go()
    assert await staying is house.launcher.workers[0]
    assert house.launcher.cancelled == 0
    assert house.waiting == 0


@asynchronous
async def test_a_grant_to_who_has_just_left_blocks_nothing() -> None:
    house = House()
    house.launcher.hold()
    leaving = house.start(house.use())
    await house.launcher.launching.wait()
    house.launcher.go()
    leaving.cancel()  # in the very turn of the loop in which the load finishes
    await asyncio.wait({leaving})
    await house.observer.saw(events.CheckpointLoaded)
    assert await house.pool.unload() == 1


@asynchronous
async def test_a_request_over_the_bound_is_refused_at_once() -> None:
    house = House(sequence_slots=2, max_queue=0)
    async with house.running(), house.running():
        with pytest.raises(errors.QueueFull, match="2 requests"):
            house.pool.acquire(SMALL, [Device.CPU])
    await house.use()


@asynchronous
async def test_a_lease_given_back_twice_counts_once() -> None:
    house = House()
    async with house.running(), house.running() as lease:
        lease.release()
        lease.release()
        assert [view.waiting for view in house.pool.slots()] == [1]


@asynchronous
async def test_the_least_recently_used_goes_for_the_next_one() -> None:
    house = House(budgets=ROOM_FOR_ONE)
    first = await house.use(SMALL)
    await house.use(LARGE)
    assert first.exited.done()
    assert house.resident == ["large"]
    (left,) = house.told(events.CheckpointUnloaded)
    assert isinstance(left, events.CheckpointUnloaded)
    assert (left.model, left.reason, left.how) == ("small", Departure.LRU, "exit code 0")


@asynchronous
async def test_who_waits_for_room_is_seen_waiting() -> None:
    house = House(budgets=ROOM_FOR_ONE, max_wait_s=1e6)
    async with house.running(SMALL):
        waiting = house.start(house.use(LARGE))
        await until(lambda: SlotState.WAITING in house.states)
        (view,) = [view for view in house.pool.slots() if view.model == "large"]
        assert (view.waiting, view.memory_bytes, view.pid) == (1, 0, None)
    await waiting


@asynchronous
async def test_the_pool_wakes_up_by_itself_when_time_decides() -> None:
    house = House(clock=time.monotonic, idle_ttl_s=0.001)
    await house.use()
    left = await house.observer.saw(events.CheckpointUnloaded)
    assert isinstance(left, events.CheckpointUnloaded)
    assert left.reason is Departure.TTL
    assert house.launcher.alive == []


@asynchronous
async def test_a_wait_for_room_ends_by_itself() -> None:
    house = House(clock=time.monotonic, budgets=ROOM_FOR_ONE, queue_timeout_s=0.001)
    house.launcher.hold()
    with pytest.raises(errors.NoCapacity, match=r"within 0\.001 s"):
        await house.use()


@asynchronous
async def test_a_busy_model_gives_way_in_the_end() -> None:
    house = House(clock=time.monotonic, budgets=ROOM_FOR_ONE, max_wait_s=0.001)
    async with house.running(SMALL):
        waiting = house.start(house.use(LARGE))
        await until(lambda: SlotState.DRAINING in house.states)
        assert len(house.launcher.alive) == 1
    await waiting
    assert house.resident == ["large"]


@asynchronous
async def test_the_most_recently_used_comes_first() -> None:
    house = House()
    await house.use(SMALL)
    await house.use(LARGE)
    assert house.resident == ["large", "small"]
    await house.use(SMALL)
    assert house.resident == ["small", "large"]


@asynchronous
async def test_looking_is_not_using() -> None:
    house = House()
    await house.use(SMALL)
    await house.use(LARGE)
    before = house.pool.slots()
    house.pool.devices()
    assert house.pool.slots() == before


@asynchronous
async def test_what_a_worker_takes_is_measured_when_a_request_ends() -> None:
    house = House()
    async with house.running():
        house.launcher.workers[0].memory_bytes = 7 << 20
    (view,) = house.pool.slots()
    assert view.memory_bytes == 7 << 20
    (device,) = house.pool.devices()
    assert (device.models, device.memory_used_bytes) == (1, 7 << 20)


@asynchronous
async def test_a_kv_cache_is_charged_when_it_is_reserved_and_not_again_when_it_is_used() -> None:
    house = House()
    house.launcher.kv_cache_bytes = 5 << 20
    async with house.running():
        (view,) = house.pool.slots()
        assert view.memory_bytes == 6 << 20
        (loaded,) = house.told(events.CheckpointLoaded)
        assert isinstance(loaded, events.CheckpointLoaded)
        assert loaded.memory_bytes == 6 << 20
        house.launcher.workers[0].memory_bytes = 4 << 20
    assert house.pool.slots()[0].memory_bytes == 6 << 20


@asynchronous
async def test_one_client_at_its_bound_keeps_no_other_one_out() -> None:
    house = House(sequence_slots=1, max_client_queue=0)
    lease = house.pool.acquire(SMALL, [Device.CPU], client="greedy")
    with pytest.raises(errors.QueueFull, match="of this client"):
        house.pool.acquire(SMALL, [Device.CPU], client="greedy")
    others = [house.pool.acquire(SMALL, [Device.CPU], client=who) for who in ("modest", None)]
    for each in (lease, *others):
        await each.worker()
        each.release()


@asynchronous
async def test_a_slot_says_which_engine_serves_it_and_why() -> None:
    house = House()
    house.launcher.hold()
    loading = house.start(house.use())
    await house.launcher.launching.wait()
    (view,) = house.pool.slots()
    assert (view.engine, view.engine_reason, view.kv_tokens) == (None, None, 0)
    house.launcher.go()
    await loading
    house.launcher.workers[0].kv_tokens = 12
    (view,) = house.pool.slots()
    assert (view.engine, view.engine_reason, view.kv_tokens) == ("fake", "it is a fake", 12)
    assert view.kv_cache_tokens == 2 * SMALL.context_length


@asynchronous
async def test_one_checkpoint_on_two_devices_is_two_slots() -> None:
    house = House(budgets=TWO_DEVICES)
    cpu, npu = await house.use(SMALL, Device.CPU), await house.use(SMALL, Device.NPU)
    assert cpu is not npu
    assert await house.pool.unload(device=Device.NPU) == 1
    assert [view.device for view in house.pool.slots()] == ["cpu"]


@asynchronous
async def test_an_unload_is_answered_when_the_worker_is_gone() -> None:
    house = House()
    async with house.running():
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        await settled()
        assert not unloading.done()
    assert await unloading == 1
    assert (house.resident, house.launcher.alive) == ([], [])


@asynchronous
async def test_a_forced_unload_waits_for_nobody() -> None:
    house = House()
    async with house.running():
        assert await house.pool.unload(force=True) == 1
        assert house.launcher.alive == []


@asynchronous
async def test_a_forced_unload_during_a_load_stops_it() -> None:
    house = House()
    house.launcher.hold()
    waiting = house.start(house.use())
    await house.launcher.launching.wait()
    assert await house.pool.unload(force=True) == 1
    with pytest.raises(errors.Unavailable, match="was unloaded"):
        await waiting
    assert house.launcher.cancelled == 1
    assert (house.resident, house.launcher.workers) == ([], [])


@asynchronous
async def test_a_caller_who_leaves_stops_no_unload() -> None:
    house = House()
    async with house.running():
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        unloading.cancel()
        await asyncio.wait({unloading})
    await house.observer.saw(events.CheckpointUnloaded)
    assert house.resident == []


@asynchronous
async def test_a_caller_who_leaves_as_the_worker_ends_takes_nobody_along() -> None:
    house = House()
    await house.use()
    worker = house.launcher.workers[0]
    stop = worker.stop
    told = asyncio.Event()

    async def late(cause: errors.LemonadeError) -> None:
        await told.wait()
        await stop(cause)

    worker.stop = late  # type: ignore[method-assign]
    leaving, staying = house.start(house.pool.unload()), house.start(house.pool.unload())
    await until(lambda: house.states == [SlotState.UNLOADING])
    worker.die()
    leaving.cancel()  # in the very turn of the loop in which the worker is gone
    told.set()
    assert await staying == 1


@asynchronous
async def test_a_request_that_comes_while_it_leaves_loads_it_anew() -> None:
    house = House()
    async with house.running():
        unloading = house.start(house.pool.unload())
        await until(lambda: house.states == [SlotState.DRAINING])
        late = [house.start(house.use()) for _ in range(2)]
        await settled()
        assert len(house.launcher.launches) == 1
    await unloading
    workers = await asyncio.gather(*late)
    assert [id(worker) for worker in workers] == [id(house.launcher.workers[1])] * 2
    assert len(house.launcher.launches) == 2


@asynchronous
async def test_a_lost_worker_is_removed_before_its_requests_hear_of_it() -> None:
    house = House()

    async def request() -> list[str]:
        async with house.running() as lease:
            worker = await lease.worker()
            with pytest.raises(errors.WorkerLost):
                await worker.generate(Work(TextPrompt("x"), ResolvedParams()), lambda _: None)
            return house.resident

    await house.use()
    house.launcher.workers[0].hush()
    hearing = house.start(request())
    await house.launcher.workers[0].started.wait()
    house.launcher.workers[0].die("killed by SIGSEGV")
    assert await hearing == []
    (left,) = house.told(events.CheckpointUnloaded)
    assert isinstance(left, events.CheckpointUnloaded)
    assert (left.reason, left.how) == (Departure.CRASH, "killed by SIGSEGV")
    assert await house.use() is house.launcher.workers[1]


@asynchronous
async def test_a_worker_that_died_at_once_is_not_kept() -> None:
    house = House()
    launch = house.launcher.launch

    async def stillborn(info: CheckpointInfo, device: Device) -> Worker:
        worker = await launch(info, device)
        worker.die()
        return worker

    house.launcher.launch = stillborn  # type: ignore[method-assign, assignment]
    await house.use()
    await house.observer.saw(events.CheckpointUnloaded)
    assert house.resident == []


@asynchronous
async def test_a_pin_is_seen_and_holds() -> None:
    house = House(budgets=ROOM_FOR_ONE)
    await house.use(SMALL)
    house.pool.pin(frozenset({Pin("small", "cpu", "int4")}))
    assert [view.pinned for view in house.pool.slots()] == [True]
    with pytest.raises(errors.SlotsPinned):
        house.pool.acquire(LARGE, [Device.CPU])


@asynchronous
async def test_closing_cuts_everything_and_leaves_nothing() -> None:
    house = House(budgets=TWO_DEVICES)
    await house.use(SMALL, Device.NPU)
    async with house.running(LARGE):
        house.launcher.hold()
        loading = house.start(house.use(SMALL))
        await until(lambda: SlotState.LOADING in house.states)
        await house.pool.close()
        assert (house.resident, house.launcher.alive) == ([], [])
    with pytest.raises(errors.Draining):
        await loading
    with pytest.raises(errors.Draining):
        house.pool.acquire(SMALL, [Device.CPU])
    assert asyncio.all_tasks() - {loading} == {asyncio.current_task()}


@asynchronous
async def test_a_lease_says_whether_it_streams_and_runs() -> None:
    house = House()
    lease = house.pool.acquire(SMALL, [Device.CPU], streaming=True)
    await lease.worker()
    (view,) = house.pool.slots()
    assert (view.streaming, view.running, view.waiting) == (True, 0, 1)
    lease.running = True
    (view,) = house.pool.slots()
    assert (view.running, view.waiting) == (1, 0)
    lease.release()


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
