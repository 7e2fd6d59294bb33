"""Who gets room, and who has to go for it: least recently used first. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.device import DeviceBudget
from lemonade_serve.domain.residency.slot import Slot, SlotState


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """See the settings of the same names. `idle_ttl_s` None: never."""

    sequence_slots: int
    max_queue: int
    max_client_queue: int
    kv_cache_tokens: int
    min_residency_s: float = 0.0
    max_wait_s: float = 5.0
    queue_timeout_s: float = 300.0
    idle_ttl_s: float | None = None
    load_cooldown_s: float = 10.0
    unload_timeout_s: float = 600.0
    encode_batch_tokens: int = 512
    encode_input_tokens: int = 2048

    def kv_tokens(self, info: CheckpointInfo) -> int:
        """What a checkpoint's KV cache has room for."""
        return info.kv_tokens(at_most=self.kv_cache_tokens, sequences=self.sequence_slots)

    def expected_bytes(self, info: CheckpointInfo) -> int:
        """What a checkpoint is expected to take, before it was ever loaded."""
        if encoder := info.encoder:
            bounds = self.encode_batch_tokens, self.encode_input_tokens
            return info.memory_bytes + encoder.batch_bytes(*bounds)
        return info.memory_bytes + self.kv_tokens(info) * info.kv_bytes_per_token

    def full(self, model: str, requests: int, of_client: int) -> errors.QueueFull | None:
        """Why a model that has so many requests, `of_client` of them by the one who asks, takes no
        other one; None if it does."""
        if requests >= self.sequence_slots + self.max_queue:
            return errors.QueueFull(
                f"{model} has {requests} requests running and waiting: worker.sequence_slots + "
                "worker.max_queue allow no more"
            )
        if of_client >= self.sequence_slots + self.max_client_queue:
            return errors.QueueFull(
                f"{model} has {of_client} requests of this client running and waiting: "
                "worker.sequence_slots + worker.max_client_queue allow no more"
            )
        return None


class Room(NamedTuple):
    """An amount of a device: so much memory, and so many checkpoints."""

    memory_bytes: int
    models: int

    @property
    def nothing(self) -> bool:
        return self.memory_bytes <= 0 and self.models <= 0

    def less(self, other: Room) -> Room:
        return Room(self.memory_bytes - other.memory_bytes, self.models - other.models)


class Answer(enum.Enum):
    """What becomes of a demand for room."""

    LOAD = "it fits"
    WAIT = "something will change"
    EVICT = "these idle ones go now"
    DRAIN = "these busy ones take no new requests"
    NEVER = "the device is too small"
    PINNED = "what is pinned there is in the way"


class Verdict(NamedTuple):
    answer: Answer
    slots: Sequence[Slot] = ()


class Situation(NamedTuple):
    """A device as a demand finds it."""

    slots: Sequence[Slot]
    budget: DeviceBudget
    bounds: Bounds
    pinned: Callable[[Slot], bool]
    now: float

    def judge(self, memory_bytes: int, waited_s: float) -> Verdict:
        """What to do for one more checkpoint of that size."""
        missing = shortage(self.budget, taken(self.slots), memory_bytes)
        if missing.nothing:
            return Verdict(Answer.LOAD)
        patient = waited_s < self.bounds.max_wait_s
        going = [slot for slot in self.slots if slot.going]
        # Who drains may take long: an idle one goes instead, rather than somebody waits for ever.
        soon = taken(slot for slot in going if slot.ending or (patient and not slot.yielding))
        if missing.less(soon).nothing:
            return Verdict(Answer.WAIT)
        idle = (slot for slot in self.evictable() if slot.idle)
        if chosen := victims(missing.less(soon), idle):
            return Verdict(Answer.EVICT, chosen)
        missing = missing.less(taken(going))
        return Verdict(Answer.WAIT) if missing.nothing else self._without_idle(missing, patient)

    def _without_idle(self, missing: Room, patient: bool) -> Verdict:
        staying = [slot for slot in self.slots if not slot.going]
        if victims(missing, staying) is None:
            return Verdict(Answer.NEVER)
        if victims(missing, (slot for slot in staying if not self.pinned(slot))) is None:
            return Verdict(Answer.PINNED)
        if not patient and (chosen := victims(missing, self.evictable())):
            return Verdict(Answer.DRAIN, chosen)
        return Verdict(Answer.WAIT)

    def evictable(self) -> list[Slot]:
        """Those that may be made to leave: idle at once, busy ones when they have finished."""
        return [
            slot
            for slot in self.slots
            if slot.state is SlotState.RESIDENT
            and not self.pinned(slot)
            and slot.loaded_at + self.bounds.min_residency_s <= self.now
        ]

    def surplus(self) -> Sequence[Slot]:
        """Those that leave because the device uses more than its budget, or has more than it may:
        idle ones, and never the one used last."""
        staying = [slot for slot in self.slots if not slot.going]
        over = taken(staying).less(Room(self.budget.memory_bytes, self.budget.max_models))
        if over.nothing:
            return ()
        last = max(staying, key=lambda slot: slot.last_use)
        idle = [slot for slot in self.evictable() if slot.idle and slot is not last]
        return victims(over, idle) or idle

    def unused(self) -> Sequence[Slot]:
        """Those that nobody used for as long as they are kept alive."""
        return [
            slot
            for slot in self.slots
            if slot.idle
            and not self.pinned(slot)
            and slot.expires_at is not None
            and slot.expires_at <= self.now
        ]


def taken(slots: Iterable[Slot]) -> Room:
    """What slots take, those of workers that are not reaped yet included."""
    sizes = [slot.memory_bytes for slot in slots]
    return Room(sum(sizes), len(sizes))


def shortage(budget: DeviceBudget, used: Room, memory_bytes: int) -> Room:
    """What is missing for one more checkpoint of that size; nothing if it fits."""
    return Room(
        used.memory_bytes + memory_bytes - budget.memory_bytes, used.models + 1 - budget.max_models
    )


def victims(missing: Room, candidates: Iterable[Slot]) -> Sequence[Slot] | None:
    """Who leaves so that `missing` becomes free; None when all `candidates` are not enough.

    The least recently used go, but nobody whose memory would not be needed after all: where an old
    small one and a newer large one could go and the large one is enough, the small one stays.
    """
    chosen: list[Slot] = []
    for slot in sorted(candidates, key=lambda slot: slot.last_use):
        if missing.less(taken(chosen)).nothing:
            break
        chosen.append(slot)
    if not missing.less(taken(chosen)).nothing:
        return None
    for slot in reversed(chosen[:-1]):
        others = [other for other in chosen if other is not slot]
        if missing.less(taken(others)).nothing:
            chosen = others
    return chosen
