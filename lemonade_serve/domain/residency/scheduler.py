"""Which checkpoints are resident: every decision, and no deed.

What happens comes in as a call with the time `now` (seconds on a clock that never goes back), what
follows from it goes out as a list of effects. Every call ends in `_settle`, the one place where
anything is decided about waiting requests and leaving checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Budgets, Device
from lemonade_serve.domain.events import Departure
from lemonade_serve.domain.ports import Pin
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
from lemonade_serve.domain.residency.ledger import Ledger
from lemonade_serve.domain.residency.policy import Answer, Bounds, Situation
from lemonade_serve.domain.residency.slot import Demand, Key, Slot, SlotState


class Scheduler:
    """Tickets are the caller's own numbers: one a request, an unload or a close."""

    def __init__(self, budgets: Budgets, bounds: Bounds) -> None:
        self.budgets = budgets
        self.ledger = Ledger(budgets, bounds.expected_bytes)
        self.pins: frozenset[Pin] = frozenset()
        self._bounds = bounds
        self._unloads: dict[int, tuple[int, set[Slot]]] = {}
        """How many checkpoints a caller wanted gone, and which are not yet."""
        self._failures: dict[Key, tuple[float, errors.LemonadeError]] = {}
        """Until when a checkpoint that failed to load evicts nobody."""
        self._draining = False
        self._closed = False
        self._effects: list[Effect] = []

    def acquire(
        self,
        ticket: int,
        info: CheckpointInfo,
        devices: Sequence[Device],
        now: float,
        *,
        client: str | None = None,
        keep_alive_s: float | None = None,
    ) -> list[Effect]:
        """A request wants a lease, on the first of `devices` that has the checkpoint, or else room.

        A model has room for so many requests, and for so many of one `client`; None is nobody's.
        `keep_alive_s` is how long the checkpoint then stays unused: None as the bounds say, below 0
        for ever. The ticket is granted or refused sooner or later, unless it leaves before.
        """
        if self._draining:
            return [Refuse(ticket, errors.Draining())]
        key = Key(info.path, self._choose(info, devices, now))
        if full := self._full(key, info, client):
            return [Refuse(ticket, full)]
        slot = self.ledger.slots.get(key)
        if slot is not None and slot.going:
            slot = None
        resident = slot is not None and slot.state is SlotState.RESIDENT
        self._tell(events.CheckpointRequested(**_labels(info, key.device), resident=resident))
        place = slot or self.ledger.demand(info, key.device, now)
        self.ledger.enter(ticket, place)
        if client is not None:
            self.ledger.clients[ticket] = client
        place.keep_alive_s = self._keep_alive(keep_alive_s)
        if slot is not None and resident:
            self._grant(ticket, slot, now)
        else:
            self.ledger.deadlines[ticket] = now + self._bounds.queue_timeout_s
        return self._settle(now)

    def leave(self, ticket: int, now: float, memory_bytes: int = 0) -> list[Effect]:
        """A ticket is given back, or given up while it waits. `memory_bytes`, unless it is 0, is
        what the checkpoint's worker takes by now."""
        self._unloads.pop(ticket, None)
        place = self.ledger.strike(ticket)
        if isinstance(place, Slot) and place.state is not SlotState.LOADING:
            place.last_use = now
            if memory_bytes:
                place.measure(memory_bytes)
        return self._settle(now)

    def loaded(self, key: Key, loaded: events.CheckpointLoaded, now: float) -> list[Effect]:
        """A launch succeeded."""
        slot = self.ledger.slots[key]
        self._failures.pop(key, None)
        self._tell(loaded)
        self.ledger.loaded(slot, loaded.memory_bytes)
        slot.loaded_at = slot.last_use = now
        if slot.ending:  # it was given up, too late
            self._effects.append(StopWorker(key, self._farewell(slot)))
            return self._settle(now)
        slot.move(SlotState.DRAINING if slot.leaving else SlotState.RESIDENT)
        for ticket in slot.tickets:
            self._grant(ticket, slot, now)
        return self._settle(now)

    def failed(self, key: Key, error: errors.LemonadeError, now: float) -> list[Effect]:
        """A launch failed, or was given up; its process is gone."""
        slot = self.ledger.slots[key]
        if slot.ending and slot.leaving:
            self._tell_gone(slot, slot.leaving, "its load was given up", now)
        else:
            labels = _labels(slot.info, key.device)
            self._tell(events.CheckpointLoadFailed(**labels, reason=error.message))
            self._failures[key] = (now + self._bounds.load_cooldown_s, error)
        self._refuse(slot.tickets, error)
        self._close(slot)
        return self._settle(now)

    def exited(self, key: Key, how: str, now: float) -> list[Effect]:
        """A worker that was loaded is gone and reaped, whoever wanted that."""
        slot = self.ledger.slots[key]
        reason = slot.leaving if slot.ending and slot.leaving else Departure.CRASH
        self._tell_gone(slot, reason, how, now)
        self._close(slot)
        return self._settle(now)

    def unload(
        self,
        ticket: int,
        now: float,
        *,
        model: str | None = None,
        device: Device | None = None,
        force: bool = False,
    ) -> list[Effect]:
        """A caller wants checkpoints gone. Those who run finish first, unless `force` cuts them."""
        going = {
            slot
            for slot in self.ledger.slots.values()
            if model in (None, slot.info.name) and device in (None, slot.key.device)
        }
        for slot in going:
            cut_at = now if force else now + self._bounds.unload_timeout_s
            if not slot.ending:
                first = slot.cut_at if slot.leaving is Departure.MANUAL else None
                slot.cut_at = cut_at if first is None else min(first, cut_at)
                slot.leaving = Departure.SHUTDOWN if self._closed else Departure.MANUAL
            if slot.state is SlotState.RESIDENT:
                slot.move(SlotState.DRAINING)
        self._unloads[ticket] = (len(going), going)
        return self._settle(now)

    def drain(self, now: float) -> list[Effect]:
        """For good: nobody is granted anything any more. Who waits is refused, what loads is given
        up, who has a lease goes on."""
        self._draining = True
        for queue in self.ledger.queues.values():
            for demand in queue:
                self._refuse(demand.tickets, errors.Draining())
        for slot in self.ledger.slots.values():
            if slot.state is SlotState.LOADING:
                slot.leaving, slot.cut_at = Departure.SHUTDOWN, now
        return self._settle(now)

    def close(self, ticket: int, now: float) -> list[Effect]:
        """Everything goes, at once and for good; answered as an unload."""
        self._closed = True
        return [*self.drain(now), *self.unload(ticket, now, force=True)]

    def pin(self, pins: Iterable[Pin], now: float) -> list[Effect]:
        """From now on these are pinned, and no others."""
        self.pins = frozenset(pins)
        return self._settle(now)

    def reconfigure(self, budgets: Budgets, bounds: Bounds, now: float) -> list[Effect]:
        """From now on these hold: other numbers for the same devices."""
        self.budgets, self._bounds = budgets, bounds
        return self._settle(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: due at `next_wake`."""
        return self._settle(now)

    def next_wake(self, now: float) -> float | None:
        """When `tick` has something to do, if nothing else happens before."""
        times = list(self.ledger.deadlines.values())
        for queue in self.ledger.queues.values():
            times += [demand.since + self._bounds.max_wait_s for demand in queue]
        for slot in self.ledger.slots.values():
            times.append(slot.loaded_at + self._bounds.min_residency_s)
            times += [time for time in (slot.cut_at, slot.expires_at) if time is not None]
        return min((time for time in times if time > now), default=None)

    def pinned(self, slot: Slot) -> bool:
        return slot.pin in self.pins

    def _full(self, key: Key, info: CheckpointInfo, client: str | None) -> errors.QueueFull | None:
        tickets, clients = self.ledger.requests(key), self.ledger.clients
        of_client = 0 if client is None else sum(clients.get(t) == client for t in tickets)
        return self._bounds.full(info.name, len(tickets), of_client)

    def _settle(self, now: float) -> list[Effect]:
        for ticket in [t for t, deadline in self.ledger.deadlines.items() if deadline <= now]:
            self._expire(ticket)
        for device in self.budgets:
            self._resume(device, now)
            self._retire(device, now)
            while (queue := self.ledger.prune(device)) and self._admit(queue, now):
                pass
            self._resume(device, now)
        for ticket, (count, left) in list(self._unloads.items()):
            if not left:
                del self._unloads[ticket]
                self._effects.append(Unloaded(ticket, count))
        effects, self._effects = self._effects, []
        return effects

    def _expire(self, ticket: int) -> None:
        name, bound = self.ledger.place(ticket).info.name, self._bounds.queue_timeout_s
        self._refuse([ticket], errors.NoCapacity(f"{name} had no room within {bound:g} s"))

    def _resume(self, device: Device, now: float) -> None:
        """A checkpoint that drains for others goes on when the others have left, or when it is
        pinned meanwhile."""
        queue = self.ledger.prune(device)
        for slot in self.ledger.on(device):
            others = [demand for demand in queue if demand.key != slot.key]
            if slot.yielding and (not others or self.pinned(slot)):
                self._stay(slot, now)

    def _stay(self, slot: Slot, now: float) -> None:
        """It drained for others and need not go after all: those who wait for it are served."""
        slot.move(SlotState.RESIDENT)
        slot.leaving = slot.cut_at = None
        for demand in self.ledger.prune(slot.key.device):
            if demand.key == slot.key:
                for ticket in self.ledger.hand_over(demand, slot):
                    self._grant(ticket, slot, now)

    def _retire(self, device: Device, now: float) -> None:
        """End what nothing keeps: drained, cut, unused for long enough, or too much."""
        for slot in self.ledger.on(device):
            late = slot.cut_at is not None and slot.cut_at <= now
            if slot.state is SlotState.LOADING and late:
                self._refuse(slot.tickets, self._farewell(slot))
                slot.move(SlotState.UNLOADING)
                self._effects.append(AbortLoad(slot.key))
            elif slot.state is SlotState.DRAINING and (late or not slot.tickets):
                self._end(slot)
        for slot in self._situation(device, now).unused():
            self._evict(slot, Departure.TTL)
        for slot in self._situation(device, now).surplus():
            self._evict(slot, Departure.PRESSURE)

    def _admit(self, queue: Sequence[Demand], now: float) -> bool:
        """Do what can be done for the first in line; whether there may be more to do."""
        slots = self.ledger.slots
        demand = next((demand for demand in queue if demand.key not in slots), None)
        if demand is None:  # all of them wait for their own last worker to be gone
            return False
        device = demand.key.device
        size = self.ledger.size(demand.info, device)
        answer, chosen = self._situation(device, now).judge(size, now - demand.since)
        until, failure = self._failures.get(demand.key, (now, None))
        if answer is Answer.EVICT and failure and now < until:
            self._refuse(demand.tickets, failure)
            return True
        if answer is Answer.LOAD:
            self._load(demand, now)
        elif answer is Answer.EVICT:
            for slot in chosen:
                self._evict(slot, Departure.LRU)
            for slot in self.ledger.on(device):
                if slot.yielding:
                    self._stay(slot, now)
        elif answer is Answer.DRAIN:
            for slot in chosen:
                self._drain(slot, now)
        elif answer is not Answer.WAIT:
            self._refuse(demand.tickets, self._refusal(demand, answer, size))
        return answer not in (Answer.WAIT, Answer.EVICT, Answer.DRAIN)

    def _refusal(self, demand: Demand, answer: Answer, size: int) -> errors.LemonadeError:
        name, device = demand.info.name, demand.key.device
        if answer is Answer.PINNED:
            return errors.SlotsPinned(
                f"{name} does not fit on {device.value} beside what is pinned there: unpin a model"
            )
        return errors.NoCapacity(
            f"{name} needs {size} bytes, and devices.{device.value}.memory_budget is "
            f"{self.budgets[device].memory_bytes}: raise it, lower worker.kv_cache_tokens, or take "
            "a smaller model or dtype"
        )

    def _choose(self, info: CheckpointInfo, devices: Sequence[Device], now: float) -> Device:
        """Where the checkpoint is or is wanted, else where there is room, else where something
        idle can make some, else where waiting may help."""
        for device in devices:
            slot = self.ledger.slots.get(key := Key(info.path, device))
            if self.ledger.wanted(key) or (slot is not None and not slot.going):
                return device
        found = {device: self._outlook(info, device, now) for device in devices}
        for answer in (Answer.LOAD, Answer.EVICT, Answer.WAIT, Answer.PINNED):
            if fitting := [device for device in devices if found[device] is answer]:
                return fitting[0]
        return devices[0]

    def _outlook(self, info: CheckpointInfo, device: Device, now: float) -> Answer:
        """What a newcomer there would meet with; behind others, it waits."""
        answer, _ = self._situation(device, now).judge(self.ledger.size(info, device), 0.0)
        queued = self.ledger.prune(device) and answer in (Answer.LOAD, Answer.EVICT)
        return Answer.WAIT if queued else answer

    def _situation(self, device: Device, now: float) -> Situation:
        slots, budget = self.ledger.on(device), self.budgets[device]
        return Situation(slots, budget, self._bounds, self.pinned, now)

    def _load(self, demand: Demand, now: float) -> None:
        slot = self.ledger.open(demand, now)
        labels = _labels(slot.info, slot.key.device)
        self._tell(events.CheckpointLoading(**labels, reserved_bytes=slot.memory_bytes))
        self._effects.append(StartLoad(slot.key, slot.info))

    def _grant(self, ticket: int, slot: Slot, now: float) -> None:
        self.ledger.deadlines.pop(ticket, None)
        slot.last_use = now
        self._effects.append(Grant(ticket, slot.key))

    def _refuse(self, tickets: Iterable[int], error: errors.LemonadeError) -> None:
        for ticket in list(tickets):
            self.ledger.strike(ticket)
            self._effects.append(Refuse(ticket, error))

    def _evict(self, slot: Slot, reason: Departure) -> None:
        slot.leaving = reason
        self._end(slot)

    def _drain(self, slot: Slot, now: float) -> None:
        slot.leaving = Departure.LRU
        slot.cut_at = now + self._bounds.unload_timeout_s
        slot.move(SlotState.DRAINING)
        if not slot.tickets:
            self._end(slot)

    def _end(self, slot: Slot) -> None:
        slot.move(SlotState.UNLOADING)
        self._effects.append(StopWorker(slot.key, self._farewell(slot)))

    def _close(self, slot: Slot) -> None:
        self.ledger.close(slot)
        for _, left in self._unloads.values():
            left.discard(slot)

    def _farewell(self, slot: Slot) -> errors.LemonadeError:
        """What those hear who still run on it, or wait for its load."""
        if self._draining:
            return errors.Draining()
        return errors.Unavailable(f"{slot.info.name} was unloaded")

    def _keep_alive(self, asked_s: float | None) -> float | None:
        seconds = self._bounds.idle_ttl_s if asked_s is None else asked_s
        return None if seconds is None or seconds < 0 else seconds

    def _tell_gone(self, slot: Slot, reason: Departure, how: str, now: float) -> None:
        self._tell(
            events.CheckpointUnloaded(
                **_labels(slot.info, slot.key.device),
                reason=reason,
                idle_s=max(0.0, now - slot.last_use),
                how=how,
            )
        )

    def _tell(self, event: events.Event) -> None:
        self._effects.append(Tell(event))


def _labels(info: CheckpointInfo, device: Device) -> dict[str, str]:
    return {"model": info.name, "device": device.value, "dtype": info.dtype}
