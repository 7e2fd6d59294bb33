"""Who has a place and who waits for one: the scheduler's books. They record, and decide nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.residency.slot import Demand, Key, Slot


class Ledger:
    """Slots, the demands of each device in order of arrival, and where each ticket is."""

    def __init__(
        self, devices: Iterable[Device], estimate: Callable[[CheckpointInfo], int]
    ) -> None:
        """`estimate` says what a checkpoint that was never loaded is expected to take, in bytes."""
        self.slots: dict[Key, Slot] = {}
        self.queues: dict[Device, list[Demand]] = {device: [] for device in devices}
        self.deadlines: dict[int, float] = {}
        """Of the tickets that wait."""
        self.clients: dict[int, str] = {}
        """Whose a ticket is, if it is a client's."""
        self._places: dict[int, Slot | Demand] = {}
        self._sizes: dict[Key, int] = {}
        self._estimate = estimate

    def on(self, device: Device) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.key.device is device]

    def requests(self, key: Key) -> list[int]:
        """The tickets that want the checkpoint or have it."""
        return [ticket for ticket, place in self._places.items() if place.key == key]

    def place(self, ticket: int) -> Slot | Demand:
        return self._places[ticket]

    def wanted(self, key: Key) -> bool:
        """Whether somebody waits for it to be loaded."""
        return any(demand.key == key and demand.tickets for demand in self.queues[key.device])

    def demand(self, info: CheckpointInfo, device: Device, now: float) -> Demand:
        """The demand for a checkpoint, the last in line if there was none."""
        queue = self.queues[device]
        known = next((demand for demand in queue if demand.key.path == info.path), None)
        if known is None:
            known = Demand(info, device, now)
            queue.append(known)
        return known

    def prune(self, device: Device) -> list[Demand]:
        """The demands that somebody still has."""
        queue = self.queues[device]
        queue[:] = [demand for demand in queue if demand.tickets]
        return queue

    def enter(self, ticket: int, place: Slot | Demand) -> None:
        self._places[ticket] = place
        place.tickets[ticket] = None

    def strike(self, ticket: int) -> Slot | Demand | None:
        """Forget a ticket; returns where it was."""
        self.deadlines.pop(ticket, None)
        self.clients.pop(ticket, None)
        if place := self._places.pop(ticket, None):
            place.tickets.pop(ticket, None)
        return place

    def open(self, demand: Demand, now: float) -> Slot:
        """Give a demand its slot, and the slot its tickets."""
        self.queues[demand.key.device].remove(demand)
        size = self.size(demand.info, demand.key.device)
        slot = self.slots[demand.key] = Slot(demand.info, demand.key.device, size, now)
        self.hand_over(demand, slot)
        return slot

    def hand_over(self, demand: Demand, slot: Slot) -> list[int]:
        """Who waited for the checkpoint is with its slot now; returns them."""
        tickets, demand.tickets = list(demand.tickets), {}
        for ticket in tickets:
            self.enter(ticket, slot)
        slot.keep_alive_s = demand.keep_alive_s
        return tickets

    def close(self, slot: Slot) -> None:
        """A slot's process is gone: only now is its memory free. Leases mean nothing any more."""
        del self.slots[slot.key]
        for ticket in list(slot.tickets):
            self.strike(ticket)

    def loaded(self, slot: Slot, memory_bytes: int) -> None:
        """What it really takes is remembered, and better than any estimate; 0 is no measurement:
        its process is gone already."""
        if memory_bytes:
            self._sizes[slot.key] = memory_bytes
            slot.reserve(memory_bytes)

    def size(self, info: CheckpointInfo, device: Device) -> int:
        """What a checkpoint is expected to take, in bytes."""
        known = self._sizes.get(Key(info.path, device))
        return self._estimate(info) if known is None else known
