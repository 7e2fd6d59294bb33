"""Does what the scheduler decides, and tells it what happens.

Everything that changes residency is one synchronous call on one event loop, between two awaits: no
lock, and no mailbox either (docs/adr/0007-residency.md).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Sequence

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Budgets, Device
from lemonade_serve.domain.ports import Clock, Launcher, Observer, Pin, Worker
from lemonade_serve.domain.residency.effects import (
    AbortLoad,
    Effect,
    Grant,
    Refuse,
    StartLoad,
    StopWorker,
    Tell,
    Unloaded,
)
from lemonade_serve.domain.residency.policy import Bounds, taken
from lemonade_serve.domain.residency.scheduler import Scheduler
from lemonade_serve.domain.residency.slot import DeviceView, Key, Slot, SlotState, SlotView
from lemonade_serve.domain.residency.views import view_demand, view_slot


class Lease:
    """The right to use a resident checkpoint, from when it is asked for until `release`."""

    def __init__(self, pool: Pool, ticket: int, key: Key, *, streaming: bool) -> None:
        self.streaming = streaming
        self.running = False
        """Whether the engine has begun with the request."""
        self.key = key
        self.granted: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._ticket = ticket
        self._pool = pool

    @property
    def device(self) -> Device:
        return self.key.device

    async def worker(self) -> Worker:
        """The checkpoint's worker, when it is loaded. Raises what the pool refuses it with."""
        return await self.granted

    def release(self) -> None:
        """Give it back, or give it up; never waits, and a second time changes nothing."""
        self._pool.release(self._ticket)


class Pool:
    """The resident checkpoints of all devices."""

    def __init__(
        self,
        launcher: Launcher,
        observer: Observer,
        *,
        budgets: Budgets,
        bounds: Bounds,
        clock: Clock,
    ) -> None:
        self._launcher = launcher
        self._observer = observer
        self._clock = clock
        self._bounds = bounds
        self._scheduler = Scheduler(budgets, bounds)
        self._tickets = itertools.count(1)
        self._leases: dict[int, Lease] = {}
        self._unloads: dict[int, asyncio.Future[int]] = {}
        self._loads: dict[Key, asyncio.Task[Worker]] = {}
        self._workers: dict[Key, Worker] = {}
        self._stops: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def acquire(
        self,
        info: CheckpointInfo,
        devices: Sequence[Device],
        *,
        client: str | None = None,
        streaming: bool = False,
        keep_alive_s: float | None = None,
    ) -> Lease:
        """A lease on a checkpoint, on one of `devices`, loaded if need be. Release it, whatever
        happens. Raises at once what no patience would mend: QueueFull, SlotsPinned, NoCapacity.

        `client` has so many requests at most; None asks for what is nobody's own, such as a load.
        """
        ticket = next(self._tickets)
        key = Key(info.path, devices[0])
        lease = Lease(self, ticket, key, streaming=streaming)
        self._leases[ticket] = lease
        self._do(
            self._scheduler.acquire(
                ticket, info, devices, self._clock(), client=client, keep_alive_s=keep_alive_s
            )
        )
        if ticket in self._leases:
            lease.key = self._scheduler.ledger.place(ticket).key
        elif error := lease.granted.exception():
            raise error
        return lease

    def release(self, ticket: int) -> None:
        """A lease is not used any more."""
        lease = self._leases.pop(ticket, None)
        if lease is None:
            return
        worker = self._workers.get(lease.key)
        held = worker.memory_bytes if worker and lease.granted.done() else 0
        lease.granted.cancel()
        self._do(self._scheduler.leave(ticket, self._clock(), held))

    async def unload(
        self, *, model: str | None = None, device: Device | None = None, force: bool = False
    ) -> int:
        """Unload what matches; running requests finish first, unless `force` cuts them.

        Returns how many checkpoints left, when their processes are gone.
        """
        ticket = next(self._tickets)
        return await self._gone(
            ticket,
            self._scheduler.unload(ticket, self._clock(), model=model, device=device, force=force),
        )

    def drain(self) -> None:
        """From now on there are no new leases, and no loads: who waits is refused with Draining,
        who has a lease goes on."""
        self._do(self._scheduler.drain(self._clock()))

    async def close(self) -> None:
        """Unload everything, at once and for good."""
        ticket = next(self._tickets)
        await self._gone(ticket, self._scheduler.close(ticket, self._clock()))
        await asyncio.gather(*self._stops)

    def pin(self, pins: frozenset[Pin]) -> None:
        """From now on these are exempt from eviction, and no others."""
        self._do(self._scheduler.pin(pins, self._clock()))

    def reconfigure(self, budgets: Budgets, bounds: Bounds) -> None:
        """From now on these hold, of the same devices; who runs goes on in any case. What is too
        much by them leaves as soon as it is idle. `sequence_slots` and `kv_cache_tokens` must stay:
        workers were started with them."""
        self._bounds = bounds
        self._do(self._scheduler.reconfigure(budgets, bounds, self._clock()))

    @property
    def pins(self) -> frozenset[Pin]:
        return self._scheduler.pins

    @property
    def available(self) -> Sequence[Device]:
        """The devices that there are, the preferred one first."""
        return list(self._scheduler.budgets)

    def resident(self) -> list[Slot]:
        """What can be used at once, the most recently used first. For reading only."""
        slots = self._scheduler.ledger.slots.values()
        resident = (slot for slot in slots if slot.state is SlotState.RESIDENT)
        return sorted(resident, key=lambda slot: slot.last_use, reverse=True)

    def slot(self, key: Key) -> SlotView:
        """One that is there."""
        return self._view(self._scheduler.ledger.slots[key])

    def slots(self) -> list[SlotView]:
        """All that is there or waits, the most recently used first. Looking changes nothing."""
        views = [self._view(slot) for slot in self._scheduler.ledger.slots.values()]
        for queue in self._scheduler.ledger.queues.values():
            views += [view_demand(demand, self._scheduler.pins) for demand in queue]
        return sorted(views, key=lambda view: view.last_use, reverse=True)

    def devices(self) -> list[DeviceView]:
        """Every device's room, the preferred one first."""
        views = []
        for device, budget in self._scheduler.budgets.items():
            used = taken(self._scheduler.ledger.on(device))
            views.append(
                DeviceView(
                    device=device.value,
                    execution_provider=budget.execution_provider,
                    max_models=budget.max_models,
                    models=used.models,
                    memory_budget_bytes=budget.memory_bytes,
                    memory_used_bytes=used.memory_bytes,
                )
            )
        return views

    def _view(self, slot: Slot) -> SlotView:
        leases = [self._leases[ticket] for ticket in slot.tickets]
        pinned, worker = self._scheduler.pinned(slot), self._workers.get(slot.key)
        room = self._bounds.kv_tokens(slot.info)
        return view_slot(slot, leases, worker, pinned=pinned, kv_cache_tokens=room)

    async def _gone(self, ticket: int, effects: Sequence[Effect]) -> int:
        gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._unloads[ticket] = gone
        try:
            self._do(effects)
            return await gone
        finally:
            if self._unloads.pop(ticket, None):
                self._do(self._scheduler.leave(ticket, self._clock()))

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartLoad(key, info):
                    self._launch(key, info)
                case AbortLoad(key):
                    self._loads[key].cancel()
                case StopWorker(key, cause):
                    self._stop(self._workers[key], cause)
                case Grant(ticket, key):
                    if not (granted := self._leases[ticket].granted).done():
                        granted.set_result(self._workers[key])
                case Refuse(ticket, error):
                    if not (granted := self._leases.pop(ticket).granted).done():
                        granted.set_exception(error)
                        granted.exception()  # whoever does not wait for it need not hear of it
                case Unloaded(ticket, count):
                    if not (gone := self._unloads.pop(ticket)).done():
                        gone.set_result(count)
                case Tell(event):
                    self._observer.observe(event)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        now = self._clock()
        wake = self._scheduler.next_wake(now)
        loop = asyncio.get_running_loop()
        self._alarm = None if wake is None else loop.call_later(wake - now, self._tick)

    def _tick(self) -> None:
        self._do(self._scheduler.tick(self._clock()))

    def _launch(self, key: Key, info: CheckpointInfo) -> None:
        # In a context of its own: what becomes of the worker is not this request's doing.
        context = contextvars.Context()
        load = asyncio.create_task(
            self._launcher.launch(info, key.device), name="load", context=context
        )
        self._loads[key] = load
        load.add_done_callback(lambda load: self._launched(key, info, load), context=context)

    def _launched(self, key: Key, info: CheckpointInfo, load: asyncio.Task[Worker]) -> None:
        del self._loads[key]
        if load.cancelled():
            error: errors.LemonadeError = errors.Unavailable("the load was given up")
            self._do(self._scheduler.failed(key, error, self._clock()))
        elif failure := load.exception():
            self._do(self._scheduler.failed(key, _known(failure), self._clock()))
        else:
            self._entered(key, info, load.result())

    def _entered(self, key: Key, info: CheckpointInfo, worker: Worker) -> None:
        self._workers[key] = worker
        measured, reserved = worker.memory_bytes, worker.ready.kv_cache_bytes
        loaded = events.CheckpointLoaded(
            model=info.name,
            device=key.device.value,
            dtype=info.dtype,
            engine=worker.ready.engine,
            engine_reason=worker.ready.engine_reason,
            pid=worker.pid,
            load_s=worker.ready.load_s,
            memory_bytes=measured and measured + reserved,
        )
        self._do(self._scheduler.loaded(key, loaded, self._clock()))
        worker.exited.add_done_callback(lambda exited: self._exited(key, exited.result()))

    def _exited(self, key: Key, how: str) -> None:
        del self._workers[key]
        self._do(self._scheduler.exited(key, how, self._clock()))

    def _stop(self, worker: Worker, cause: errors.LemonadeError) -> None:
        stop = asyncio.create_task(worker.stop(cause), name="stop", context=contextvars.Context())
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)


def _known(failure: BaseException) -> errors.LemonadeError:
    """What a launcher may raise; anything else is a fault of ours, and shown as one."""
    if isinstance(failure, errors.LemonadeError):
        return failure
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a launch broke", "exception": failure}
    )
    return errors.ModelLoadError(f"the worker could not be started: {type(failure).__name__}")
