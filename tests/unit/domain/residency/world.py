"""The world that a scheduler sees: it does what it is told, and watches for what must never be."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device, DeviceBudget
from lemonade_serve.domain.events import Departure
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
from lemonade_serve.domain.residency.slot import Key, pin_of
from tests.fakes import ROOMY, checkpoint

BY_POLICY = {Departure.LRU, Departure.TTL, Departure.PRESSURE}


def budget(max_models: int = 2, memory_bytes: int = 100) -> DeviceBudget:
    return DeviceBudget(execution_provider="cpu", max_models=max_models, memory_bytes=memory_bytes)


def model(name: str, memory_bytes: int = 10) -> CheckpointInfo:
    return checkpoint(name, memory_bytes=memory_bytes)


class World:
    """Loads and stops finish when the test says so. Time is what the test says too."""

    def __init__(
        self, budgets: dict[Device, DeviceBudget] | None = None, **bounds: float | None
    ) -> None:
        self._bounds = Bounds(**{**ROOMY, "max_queue": 98, **bounds})  # type: ignore[arg-type]
        self.scheduler = Scheduler(budgets or {Device.CPU: budget()}, self._bounds)
        self.now = 1000.0
        self.loading: dict[Key, CheckpointInfo] = {}
        self.aborted: set[Key] = set()
        self.alive: set[Key] = set()
        self.stopping: set[Key] = set()
        self.waiting: set[int] = set()
        self.leases: dict[int, Key] = {}
        self.refused: dict[int, errors.LemonadeError] = {}
        self.unloads: set[int] = set()
        self.unloaded: dict[int, int] = {}
        self.events: list[events.Event] = []
        self.stopped_while_serving: list[Key] = []
        self._tickets = 0

    # What a test does

    def acquire(
        self,
        info: CheckpointInfo,
        *devices: Device,
        client: str | None = None,
        keep_alive_s: float | None = None,
    ) -> int:
        ticket = self._ticket()
        self.waiting.add(ticket)
        where: Sequence[Device] = devices or [Device.CPU]
        self.follow(
            self.scheduler.acquire(
                ticket, info, where, self.now, client=client, keep_alive_s=keep_alive_s
            )
        )
        return ticket

    def leave(self, ticket: int, memory_bytes: int = 0) -> None:
        self.now += 0.001
        self.waiting.discard(ticket)
        self.leases.pop(ticket, None)
        self.follow(self.scheduler.leave(ticket, self.now, memory_bytes))

    def load(self, key: Key | None = None, memory_bytes: int | None = None) -> Key:
        """A load finishes: that one, or the only one."""
        key = key or next(iter(self.loading))
        info = self.loading.pop(key)
        self.aborted.discard(key)
        self.alive.add(key)
        loaded = events.CheckpointLoaded(
            model=info.name,
            device=key.device.value,
            dtype=info.dtype,
            engine="fake",
            engine_reason="it is a fake",
            pid=1,
            load_s=0.5,
            memory_bytes=info.memory_bytes if memory_bytes is None else memory_bytes,
        )
        self.follow(self.scheduler.loaded(key, loaded, self.now))
        return key

    def fail(self, key: Key | None = None, error: errors.LemonadeError | None = None) -> None:
        key = key or next(iter(self.loading))
        del self.loading[key]
        self.aborted.discard(key)
        failure = error or errors.ModelLoadError("the file is cut")
        self.follow(self.scheduler.failed(key, failure, self.now))

    def reap(self, key: Key | None = None, how: str = "exit code 0") -> None:
        """A worker that was told to stop is gone: that one, or the only one."""
        key = key or next(iter(self.stopping))
        self.stopping.discard(key)
        self.alive.remove(key)
        for ticket in [t for t, held in self.leases.items() if held == key]:
            del self.leases[ticket]
        self.follow(self.scheduler.exited(key, how, self.now))

    def unload(
        self, name: str | None = None, device: Device | None = None, *, force: bool = False
    ) -> int:
        ticket = self._ticket()
        self.unloads.add(ticket)
        self.follow(self.scheduler.unload(ticket, self.now, model=name, device=device, force=force))
        return ticket

    def reconfigure(
        self, budgets: dict[Device, DeviceBudget] | None = None, **bounds: float | None
    ) -> None:
        changed = msgspec.structs.replace(self._bounds, **bounds)
        self.follow(
            self.scheduler.reconfigure(budgets or dict(self.scheduler.budgets), changed, self.now)
        )

    def drain(self) -> None:
        self.follow(self.scheduler.drain(self.now))

    def close(self) -> int:
        ticket = self._ticket()
        self.unloads.add(ticket)
        self.follow(self.scheduler.close(ticket, self.now))
        return ticket

    def pin(self, *infos: CheckpointInfo, device: Device = Device.CPU) -> None:
        pins = {pin_of(info, device) for info in infos}
        self.follow(self.scheduler.pin(pins, self.now))

    def pass_time(self, seconds: float) -> None:
        """Time passes; the scheduler is woken whenever it asked to be."""
        until = self.now + seconds
        while (wake := self.scheduler.next_wake(self.now)) is not None and wake <= until:
            assert wake > self.now
            self.now = wake
            self.follow(self.scheduler.tick(self.now))
        self.now = until
        self.follow(self.scheduler.tick(self.now))

    def use(self, info: CheckpointInfo, *devices: Device) -> bool:
        """A request from beginning to end, all that it needs done at once; whether it was a hit."""
        ticket = self.acquire(info, *devices)
        hit = ticket in self.leases
        while ticket in self.waiting:
            if self.stopping:
                self.reap()
            elif self.loading:
                self.load()
            else:
                wake = self.scheduler.next_wake(self.now)
                assert wake is not None, "it hangs"
                self.pass_time(wake - self.now)
        self.leave(ticket)
        return hit

    # What a test asks

    def resident(self, device: Device | None = None) -> list[str]:
        """By use, the least recent first."""
        slots = [
            slot
            for slot in self.scheduler.ledger.slots.values()
            if device in (None, slot.key.device)
        ]
        return [slot.info.name for slot in sorted(slots, key=lambda slot: slot.last_use)]

    def charge(self, name: str) -> int:
        """What its device is charged for a model, in bytes."""
        slots = self.scheduler.ledger.slots.values()
        return sum(slot.memory_bytes for slot in slots if slot.info.name == name)

    def departures(self) -> list[tuple[str, str]]:
        """Who left, and why."""
        return [
            (event.model, event.reason.value)
            for event in self.events
            if isinstance(event, events.CheckpointUnloaded)
        ]

    # What it watches for

    def follow(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartLoad(key, info):
                    assert key not in self.loading
                    assert key not in self.alive, "two workers of one checkpoint"
                    self.loading[key] = info
                    self._check_budget(key.device)
                case AbortLoad(key):
                    assert key in self.loading
                    self.aborted.add(key)
                case StopWorker(key, _):
                    self._check_stop(key)
                    self.stopping.add(key)
                case Grant(ticket, key):
                    assert key in self.alive
                    assert key not in self.stopping
                    self.waiting.remove(ticket)
                    self.leases[ticket] = key
                case Refuse(ticket, error):
                    self.waiting.remove(ticket)
                    self.refused[ticket] = error
                case Unloaded(ticket, checkpoints):
                    self.unloads.remove(ticket)
                    self.unloaded[ticket] = checkpoints
                case Tell(event):
                    self.events.append(event)

    def _check_budget(self, device: Device) -> None:
        used, allowed = taken(self.scheduler.ledger.on(device)), self.scheduler.budgets[device]
        assert used.models <= allowed.max_models
        assert used.memory_bytes <= allowed.memory_bytes

    def _check_stop(self, key: Key) -> None:
        assert key in self.alive, "a victim that is still loading"
        slot = self.scheduler.ledger.slots[key]
        if slot.leaving in BY_POLICY:
            assert not self.scheduler.pinned(slot), "a pinned victim"
            cut = slot.cut_at is not None and slot.cut_at <= self.now
            if key in self.leases.values() and not cut:
                self.stopped_while_serving.append(key)

    def _ticket(self) -> int:
        self.now += 0.001  # no two requests come at the same time
        self._tickets += 1
        return self._tickets
