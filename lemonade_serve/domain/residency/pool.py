"""Which checkpoints are resident: loads them on demand, each once, and unloads them when told."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.ports import Clock, Launcher, Observer, Worker
from lemonade_serve.domain.residency.slot import Lease, Slot, SlotState


class Pool:
    """Everything that changes a slot happens here, between two awaits of one event loop.

    `max_requests` bounds the requests of one checkpoint, waiting ones included;
    `unload_timeout_s` how long an unload waits for them.
    """

    def __init__(
        self,
        launcher: Launcher,
        observer: Observer,
        *,
        max_requests: int,
        unload_timeout_s: float,
        clock: Clock,
    ) -> None:
        self._launcher = launcher
        self._observer = observer
        self._max_requests = max_requests
        self._unload_timeout_s = unload_timeout_s
        self._clock = clock
        self._closed = False
        self._slots: dict[tuple[object, Device], Slot] = {}

    def slots(self) -> Sequence[Slot]:
        """All that are loading, resident or draining, the most recently used first."""
        return sorted(self._slots.values(), key=lambda slot: slot.last_use, reverse=True)

    @asynccontextmanager
    async def acquire(
        self, info: CheckpointInfo, device: Device, *, streaming: bool = False
    ) -> AsyncIterator[tuple[Worker, Lease]]:
        """The worker of a checkpoint, loaded if need be, and a lease on it.

        Raises QueueFull at once; ModelLoadError, to everyone who waits for the same load.
        """
        slot = await self._slot(info, device)
        self._check_queue(slot)
        lease = Lease(streaming=streaming)
        slot.leases.add(lease)
        slot.idle.clear()
        try:
            worker = await _loaded_worker(slot)
            slot.last_use = self._clock()
            yield worker, lease
        finally:
            slot.leases.discard(lease)
            slot.last_use = self._clock()
            if not slot.leases:
                slot.idle.set()

    async def unload(
        self, *, model: str | None = None, device: Device | None = None, force: bool = False
    ) -> int:
        """Unload what matches; running requests finish first, unless `force` cuts them.

        Returns how many checkpoints left, when their processes are gone.
        """
        leaving = [
            slot
            for slot in self._slots.values()
            if model in (None, slot.info.name) and device in (None, slot.device)
        ]
        await asyncio.gather(*(self._retire(slot, force=force) for slot in leaving))
        return len(leaving)

    async def close(self) -> None:
        """Unload everything, at once and for good."""
        self._closed = True
        await self.unload(force=True)

    async def _slot(self, info: CheckpointInfo, device: Device) -> Slot:
        key = (info.path, device)
        while (slot := self._slots.get(key)) and slot.draining:
            self._check_queue(slot)
            slot.waiting_for_next += 1
            try:
                await slot.gone.wait()
            finally:
                slot.waiting_for_next -= 1
        if self._closed:
            raise errors.Draining
        if slot is None:
            # In a context of its own: what becomes of the worker is not this request's doing.
            context = contextvars.Context()
            loading = asyncio.create_task(
                self._launcher.launch(info, device), name="load", context=context
            )
            slot = self._slots[key] = Slot(info, device, loading, self._clock())
            loading.add_done_callback(lambda _: self._loaded(slot), context=context)
        return slot

    def _check_queue(self, slot: Slot) -> None:
        requests = len(slot.leases) + slot.waiting_for_next
        if requests >= self._max_requests:
            raise errors.QueueFull(
                f"{slot.info.name} has {requests} requests running and waiting, its bound"
            )

    def _loaded(self, slot: Slot) -> None:
        where = _labels(slot)
        if (worker := slot.worker) is None:
            error = "cancelled" if slot.loading.cancelled() else str(slot.loading.exception())
            self._observer.observe(events.CheckpointLoadFailed(reason=error, **where))
            self._remove(slot)
            return
        if slot.state is SlotState.LOADING:
            slot.state = SlotState.RESIDENT
        worker.exited.add_done_callback(lambda exited: self._exited(slot, exited.result()))
        self._observer.observe(
            events.CheckpointLoaded(
                engine=worker.ready.engine, pid=worker.pid, load_s=worker.ready.load_s, **where
            )
        )

    def _exited(self, slot: Slot, reason: str) -> None:
        where = _labels(slot)
        if slot.draining:
            self._observer.observe(events.CheckpointUnloaded(**where))
        else:
            self._observer.observe(events.WorkerExited(reason=reason, **where))
        self._remove(slot)

    def _remove(self, slot: Slot) -> None:
        self._slots.pop((slot.info.path, slot.device), None)
        slot.gone.set()

    async def _retire(self, slot: Slot, *, force: bool) -> None:
        slot.state = SlotState.DRAINING
        if force:
            slot.loading.cancel()
        with suppress(errors.LemonadeError):
            worker = await _loaded_worker(slot)
            if not force:
                with suppress(TimeoutError):
                    await asyncio.wait_for(slot.idle.wait(), self._unload_timeout_s)
            await worker.stop(errors.Unavailable(f"{slot.info.name} was unloaded"))
        await slot.gone.wait()


def _labels(slot: Slot) -> dict[str, str]:
    return {"model": slot.info.name, "device": slot.device.value, "dtype": slot.info.dtype}


async def _loaded_worker(slot: Slot) -> Worker:
    """The slot's worker, when it is loaded; whoever stops waiting does not stop the load."""
    await asyncio.wait({slot.loading})
    if slot.loading.cancelled():
        raise errors.Unavailable(f"{slot.info.name} was unloaded while it was loading")
    return slot.loading.result()
