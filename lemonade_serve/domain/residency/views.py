"""What outsiders see of a slot, and of what waits for one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from lemonade_serve.domain.ports import Pin, Worker
from lemonade_serve.domain.residency.slot import Demand, Slot, SlotState, SlotView, pin_of


class Use(Protocol):
    """A lease, as far as it is seen."""

    streaming: bool
    running: bool


def view_slot(
    slot: Slot,
    leases: Collection[Use],
    worker: Worker | None,
    *,
    pinned: bool,
    kv_cache_tokens: int,
) -> SlotView:
    running = sum(lease.running for lease in leases)
    return SlotView(
        model=slot.info.name,
        path=slot.info.path,
        device=slot.key.device.value,
        dtype=slot.info.dtype,
        state=slot.state,
        pinned=pinned,
        streaming=any(lease.streaming for lease in leases),
        running=running,
        waiting=len(leases) - running,
        memory_bytes=slot.memory_bytes,
        last_use=slot.last_use,
        engine=worker.ready.engine if worker else None,
        engine_reason=worker.ready.engine_reason if worker else None,
        pid=worker.pid if worker else None,
        kv_tokens=worker.kv_tokens if worker else 0,
        kv_cache_tokens=kv_cache_tokens,
    )


def view_demand(demand: Demand, pins: frozenset[Pin]) -> SlotView:
    return SlotView(
        model=demand.info.name,
        path=demand.info.path,
        device=demand.key.device.value,
        dtype=demand.info.dtype,
        state=SlotState.WAITING,
        pinned=pin_of(demand.info, demand.key.device) in pins,
        streaming=False,
        running=0,
        waiting=len(demand.tickets),
        memory_bytes=0,
        last_use=demand.since,
    )
