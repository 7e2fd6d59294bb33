"""Every decision about residency, driven without a loop, a process or a clock."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lemonade_serve import errors
from lemonade_serve.domain import events
from lemonade_serve.domain.device import Device
from lemonade_serve.domain.events import Departure
from lemonade_serve.domain.residency.slot import Key, SlotState
from tests.fakes import checkpoint
from tests.unit.domain.residency.world import World, budget, model

A, B, C, D = (model(name) for name in "abcd")


def key(name: str, device: Device = Device.CPU) -> Key:
    return Key(Path("/cache", name, "int4"), device)


class TestEviction:
    def test_the_least_recently_used_goes(self) -> None:
        world = World()
        for info in (A, B, A, C):
            world.use(info)
        assert world.resident() == ["a", "c"]
        assert world.departures() == [("b", "lru")]

    def test_nothing_loads_before_the_victim_is_reaped(self) -> None:
        world = World()
        world.use(A)
        world.use(B)
        world.acquire(C)
        assert (world.stopping, world.loading) == ({key("a")}, {})
        world.reap()
        assert list(world.loading) == [key("c")]

    def test_memory_counts_as_well_as_number(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        for name, size in (("a", 40), ("b", 40), ("c", 30)):
            world.use(model(name, size))
        assert world.resident() == ["b", "c"]

    def test_who_would_not_be_needed_stays(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        world.use(model("small", 10))
        world.use(model("large", 80))
        world.use(model("new", 85))
        assert world.resident() == ["small", "new"]

    def test_a_busy_one_is_passed_over(self) -> None:
        world = World()
        world.use(A)
        lease = world.acquire(A)
        world.use(B)
        world.use(C)
        assert world.resident() == ["a", "c"]
        assert lease in world.leases

    def test_each_device_evicts_only_its_own(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        world.use(A, Device.NPU)
        world.use(B, Device.CPU)
        world.use(C, Device.CPU)
        assert world.resident(Device.NPU) == ["a"]
        assert world.resident(Device.CPU) == ["c"]

    def test_one_checkpoint_on_two_devices_is_two_slots(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        world.use(A, Device.NPU)
        world.use(A, Device.CPU)
        assert world.alive == {key("a", Device.NPU), key("a")}

    def test_use_counts_until_it_ends(self) -> None:
        world = World()
        world.use(A)
        lease = world.acquire(A)
        world.pass_time(1)
        world.use(B)
        world.pass_time(1)
        world.leave(lease)
        world.use(C)
        assert world.resident() == ["a", "c"]

    def test_looking_and_ticking_are_not_using(self) -> None:
        world = World()
        world.use(A)
        world.pass_time(1)
        world.use(B)
        before = {slot.key: slot.last_use for slot in world.scheduler.ledger.slots.values()}
        world.pass_time(100)
        after = {slot.key: slot.last_use for slot in world.scheduler.ledger.slots.values()}
        assert before == after


class TestMeasurement:
    def test_the_measured_size_replaces_the_estimate(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        world.acquire(model("a", 90))
        world.load(memory_bytes=30)
        world.acquire(model("b", 70))
        assert list(world.loading) == [key("b")]

    def test_and_is_remembered(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        large = model("a", 90)
        world.leave(world.acquire(large))
        world.load(memory_bytes=30)
        world.unload()
        world.reap()
        world.use(model("b", 70))
        world.acquire(large)
        assert world.stopping == set()
        assert list(world.loading) == [key("a")]

    def test_a_worker_that_grew_is_charged_for_it(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        world.use(A)
        lease = world.acquire(A)
        world.leave(lease, memory_bytes=95)
        world.use(B)
        assert world.departures() == [("a", "lru")]

    def test_what_it_grew_to_is_no_measure_for_its_next_load(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        world.use(A)
        world.leave(world.acquire(A), memory_bytes=130)
        world.unload()
        world.reap()
        world.acquire(A)
        assert list(world.loading) == [key("a")]

    def test_a_process_that_is_gone_already_measures_nothing(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        world.acquire(model("a", 90))
        world.load(memory_bytes=0)
        (slot,) = world.scheduler.ledger.slots.values()
        assert slot.memory_bytes == 90

    def test_over_the_budget_the_idle_go_but_not_the_last_used(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        for info in (A, B):
            world.use(info)
            world.pass_time(1)
        lease = world.acquire(C)
        world.load()
        world.leave(lease, memory_bytes=95)
        while world.stopping:
            world.reap()
        assert sorted(world.departures()) == [("a", "pressure"), ("b", "pressure")]
        lease = world.acquire(C)
        world.leave(lease, memory_bytes=300)
        assert world.resident() == ["c"]

    def test_what_is_used_of_a_reserve_is_not_charged_twice(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        lease = world.acquire(A)
        world.load(memory_bytes=70)  # 40 of the process, and 30 that its KV cache may come to take
        world.leave(lease, memory_bytes=65)
        assert world.charge("a") == 70
        world.leave(world.acquire(A), memory_bytes=72)
        assert world.charge("a") == 72

    def test_a_worker_that_shrank_keeps_its_reserve(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)})
        lease = world.acquire(A)
        world.load(memory_bytes=70)
        world.leave(lease, memory_bytes=90)
        world.leave(world.acquire(A), memory_bytes=20)
        assert world.charge("a") == 70

    def test_before_its_first_load_a_model_is_charged_for_its_kv_cache(self) -> None:
        world = World({Device.CPU: budget(max_models=9, memory_bytes=100)}, kv_cache_tokens=20)
        cached = checkpoint("cached", memory_bytes=30, kv_bytes_per_token=3)
        world.acquire(cached)
        assert world.charge("cached") == 90
        world.acquire(model("large", 11))
        assert list(world.loading) == [Key(cached.path, Device.CPU)]

    def test_but_for_no_more_than_its_sequences_can_fill(self) -> None:
        world = World({Device.CPU: budget(memory_bytes=500)}, kv_cache_tokens=1000)
        world.acquire(
            checkpoint("short", memory_bytes=30, kv_bytes_per_token=1, context_length=100)
        )
        assert world.charge("short") == 230

    def test_a_kv_cache_that_can_never_fit_is_refused_by_its_setting(self) -> None:
        world = World({Device.CPU: budget(memory_bytes=100)}, kv_cache_tokens=100)
        ticket = world.acquire(checkpoint("cached", memory_bytes=30, kv_bytes_per_token=1))
        assert isinstance(world.refused[ticket], errors.NoCapacity)
        assert "worker.kv_cache_tokens" in str(world.refused[ticket])


class TestPins:
    def test_a_pinned_one_stays(self) -> None:
        world = World()
        world.pin(A)
        for info in (A, B, C):
            world.use(info)
        assert world.resident() == ["a", "c"]

    def test_no_room_beside_the_pinned_is_said_at_once(self) -> None:
        world = World()
        world.pin(A, B)
        world.use(A)
        world.use(B)
        ticket = world.acquire(C)
        assert isinstance(world.refused[ticket], errors.SlotsPinned)

    def test_unpinning_makes_room(self) -> None:
        world = World(max_wait_s=100.0, min_residency_s=0.0)
        world.pin(A, B)
        world.use(A)
        busy = world.acquire(B)
        world.load()
        world.pin(B)
        world.use(C)
        assert world.departures() == [("a", "lru")]
        assert busy in world.leases

    def test_one_that_drains_for_others_stays_when_it_is_pinned(self) -> None:
        world = World({Device.CPU: budget(1)}, max_wait_s=5.0)
        running = world.acquire(A)
        world.load()
        waiting = world.acquire(B)
        world.pass_time(6)
        queued = world.acquire(A)
        world.pin(A)
        assert queued in world.leases
        assert isinstance(world.refused[waiting], errors.SlotsPinned)
        world.leave(running)
        assert world.resident() == ["a"]

    def test_a_pinned_one_has_no_ttl(self) -> None:
        world = World(idle_ttl_s=10.0)
        world.pin(A)
        world.use(A)
        world.use(B)
        world.pass_time(100)
        assert world.stopping == {key("b")}


class TestLoads:
    def test_requests_that_come_while_it_loads_share_the_load(self) -> None:
        world = World()
        tickets = [world.acquire(A) for _ in range(3)]
        assert len(world.loading) == 1
        world.load()
        assert list(world.leases) == tickets

    def test_a_failed_load_wakes_every_waiter(self) -> None:
        world = World()
        tickets = [world.acquire(A) for _ in range(3)]
        world.fail()
        assert list(world.refused) == tickets
        assert {str(error) for error in world.refused.values()} == {"the file is cut"}
        assert world.resident() == []

    def test_a_failed_load_leaves_the_others_alone(self) -> None:
        world = World()
        world.use(A)
        world.acquire(B)
        world.fail()
        assert world.resident() == ["a"]

    def test_after_a_failed_load_there_is_another_one_where_there_is_room(self) -> None:
        world = World()
        world.acquire(A)
        world.fail()
        world.acquire(A)
        assert list(world.loading) == [key("a")]

    def test_what_failed_to_load_evicts_nobody_for_a_while(self) -> None:
        world = World(load_cooldown_s=10.0)
        for info in (A, B):
            world.use(info)
        world.acquire(C)
        world.reap()
        world.fail()
        world.use(A)
        again = world.acquire(C)
        assert str(world.refused[again]) == "the file is cut"
        assert world.resident() == ["b", "a"]
        world.pass_time(11)
        world.acquire(C)
        assert world.stopping == {key("b")}

    def test_a_load_delays_nobody_who_wants_what_is_resident(self) -> None:
        world = World()
        world.use(A)
        world.acquire(B)
        assert world.acquire(A) in world.leases

    def test_devices_load_side_by_side(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        world.acquire(A, Device.NPU)
        world.acquire(B, Device.CPU)
        assert set(world.loading) == {key("a", Device.NPU), key("b")}

    def test_no_load_starts_for_nobody(self) -> None:
        world = World()
        for info in (A, B):
            world.use(info)
        ticket = world.acquire(C)
        world.leave(ticket)
        world.reap()
        assert world.loading == {}

    def test_a_load_that_everyone_left_still_serves_the_next_one(self) -> None:
        world = World()
        world.leave(world.acquire(A))
        world.load()
        assert world.acquire(A) in world.leases

    def test_hits_and_misses_are_told(self) -> None:
        world = World()
        world.use(A)
        world.use(A)
        told = [e.resident for e in world.events if isinstance(e, events.CheckpointRequested)]
        assert told == [False, True]


class TestPlacement:
    def test_hybrid_goes_where_there_is_room(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        world.use(A, Device.NPU, Device.CPU)
        world.use(B, Device.NPU, Device.CPU)
        assert (world.resident(Device.NPU), world.resident(Device.CPU)) == (["a"], ["b"])

    def test_hybrid_goes_where_the_checkpoint_is(self) -> None:
        world = World({Device.NPU: budget(2), Device.CPU: budget(2)})
        world.use(A, Device.CPU)
        assert world.acquire(A, Device.NPU, Device.CPU) in world.leases

    def test_without_room_anywhere_the_first_device_makes_some(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        for info in (A, B, C):
            world.use(info, Device.NPU, Device.CPU)
        assert world.resident(Device.NPU) == ["c"]

    def test_something_idle_elsewhere_goes_before_anybody_waits(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        world.acquire(A, Device.NPU)
        world.load()
        world.use(B, Device.CPU)
        world.use(C, Device.NPU, Device.CPU)
        assert (world.resident(Device.NPU), world.resident(Device.CPU)) == (["a"], ["c"])

    def test_what_is_pinned_on_one_device_is_in_nobodys_way_on_another(self) -> None:
        world = World({Device.NPU: budget(1), Device.CPU: budget(1)})
        world.pin(A, device=Device.NPU)
        world.use(A, Device.NPU)
        world.use(B, Device.CPU)
        world.use(C, Device.NPU, Device.CPU)
        assert world.resident(Device.CPU) == ["c"]

    def test_what_the_first_device_could_never_hold_goes_to_the_next(self) -> None:
        world = World({Device.NPU: budget(1, 20), Device.CPU: budget(1, 100)})
        world.use(A, Device.CPU)
        world.use(model("large", 50), Device.NPU, Device.CPU)
        assert world.resident(Device.CPU) == ["large"]


class TestBounds:
    def test_a_queue_has_an_end(self) -> None:
        world = World(max_queue=0)
        for _ in range(2):
            world.acquire(A)
        assert isinstance(world.refused[world.acquire(A)], errors.QueueFull)
        assert world.acquire(B) in world.waiting

    def test_and_says_which_settings_end_it(self) -> None:
        world = World(max_queue=0)
        for _ in range(3):
            last = world.acquire(A)
        said = "a has 2 requests running and waiting: worker.sequence_slots + worker.max_queue"
        assert said in str(world.refused[last])

    def test_a_client_at_its_bound_keeps_no_other_one_out(self) -> None:
        world = World(max_client_queue=1)
        for _ in range(3):
            world.acquire(A, client="greedy")
        refused = world.refused[world.acquire(A, client="greedy")]
        assert isinstance(refused, errors.QueueFull)
        assert "3 requests of this client running and waiting" in str(refused)
        assert "worker.max_client_queue" in str(refused)
        for client in ("modest", None):
            assert world.acquire(A, client=client) in world.waiting

    def test_a_clients_bound_is_of_each_model_by_itself(self) -> None:
        world = World(max_client_queue=0)
        for info in (A, A, B, B):
            assert world.acquire(info, client="me") in world.waiting

    def test_a_client_whose_request_ended_has_room_for_another_one(self) -> None:
        world = World(max_client_queue=0)
        running, waiting = (world.acquire(A, client="me") for _ in range(2))
        world.load()
        world.leave(running)
        assert world.acquire(A, client="me") in world.leases
        world.leave(waiting)
        assert world.acquire(A, client="me") in world.leases
        assert isinstance(world.refused[world.acquire(A, client="me")], errors.QueueFull)

    def test_the_models_bound_holds_however_many_clients_there_are(self) -> None:
        world = World(max_queue=1)
        for client in "abc":
            world.acquire(A, client=client)
        refused = world.refused[world.acquire(A, client="d")]
        assert "worker.max_queue" in str(refused)

    def test_a_clients_requests_still_count_when_they_wait_for_the_same_model_again(self) -> None:
        world = World({Device.CPU: budget(1)}, max_client_queue=0)
        world.acquire(A, client="me")
        world.load()
        world.unload("a")
        assert world.acquire(A, client="me") in world.waiting  # one on the old worker, one not yet
        assert isinstance(world.refused[world.acquire(A, client="me")], errors.QueueFull)

    def test_what_can_never_fit_is_said_at_once(self) -> None:
        world = World({Device.CPU: budget(memory_bytes=100)})
        refused = world.refused[world.acquire(model("huge", 101))]
        assert isinstance(refused, errors.NoCapacity)
        assert "devices.cpu.memory_budget" in refused.message

    def test_a_wait_ends_at_its_deadline(self) -> None:
        world = World(max_wait_s=1000.0, queue_timeout_s=30.0)
        for info in (A, B):
            world.acquire(info)
            world.load()
        ticket = world.acquire(C)
        world.pass_time(29)
        assert ticket in world.waiting
        world.pass_time(2)
        assert isinstance(world.refused[ticket], errors.NoCapacity)

    def test_so_does_a_wait_for_a_load(self) -> None:
        world = World(queue_timeout_s=30.0)
        ticket = world.acquire(A)
        world.pass_time(31)
        assert isinstance(world.refused[ticket], errors.NoCapacity)


class TestFairness:
    def test_a_new_model_is_left_alone_for_a_while(self) -> None:
        world = World({Device.CPU: budget(1)}, min_residency_s=3.0)
        world.use(A)
        world.acquire(B)
        world.pass_time(2)
        assert world.stopping == set()
        world.pass_time(2)
        assert world.stopping == {key("a")}

    def test_a_busy_model_that_others_wait_for_takes_no_new_requests(self) -> None:
        world = World({Device.CPU: budget(1)}, max_wait_s=5.0)
        world.use(A)
        running = world.acquire(A)
        waiting = world.acquire(B)
        world.pass_time(4)
        late = world.acquire(A)
        assert late in world.leases
        world.pass_time(2)
        too_late = world.acquire(A)
        assert too_late in world.waiting
        world.leave(running)
        world.leave(late)
        world.reap()
        world.load()
        assert waiting in world.leases
        assert world.departures() == [("a", "lru")]

    def test_it_goes_on_when_nobody_waits_for_its_room_any_more(self) -> None:
        world = World({Device.CPU: budget(1)}, max_wait_s=5.0)
        world.use(A)
        running = world.acquire(A)
        waiting = world.acquire(B)
        world.pass_time(6)
        queued = world.acquire(A)
        world.leave(waiting)
        assert queued in world.leases
        world.leave(running)
        assert (world.stopping, world.resident()) == (set(), ["a"])

    def test_one_that_becomes_idle_goes_instead_of_one_that_drains(self) -> None:
        world = World(max_wait_s=5.0)
        busy, other = world.acquire(A), world.acquire(C)
        world.load(key("a"))
        world.load(key("c"))
        waiting = world.acquire(B)
        world.pass_time(6)
        queued = world.acquire(A)
        assert (queued in world.waiting, world.stopping) == (True, set())
        world.leave(other)
        assert world.stopping == {key("c")}
        assert {busy, queued} <= set(world.leases)
        world.reap()
        world.load()
        assert waiting in world.leases

    def test_one_that_drains_goes_on_as_soon_as_the_others_have_room(self) -> None:
        world = World(max_wait_s=5.0)
        world.acquire(A)
        world.acquire(C)
        world.load(key("a"))
        world.load(key("c"))
        world.acquire(B)
        world.pass_time(6)
        queued = world.acquire(A)
        world.unload("c", force=True)
        world.reap()
        assert list(world.loading) == [key("b")]
        assert queued in world.leases

    def test_a_long_unload_is_waited_for_only_for_a_while(self) -> None:
        world = World(max_wait_s=5.0)
        world.acquire(A)
        world.load()
        world.use(C)
        world.unload("a")
        world.acquire(B)
        world.pass_time(4)
        assert world.stopping == set()
        world.pass_time(2)
        assert world.stopping == {key("c")}

    def test_two_busy_models_with_room_for_one_take_turns(self) -> None:
        world = World({Device.CPU: budget(1)}, min_residency_s=2.0, max_wait_s=5.0)
        served = {"a": 0, "b": 0}
        tickets = {world.acquire(info): info for info in (A, A, B, B)}
        for _ in range(200):
            world.pass_time(0.5)
            for stop in list(world.stopping):
                world.reap(stop)
            for load in list(world.loading):
                world.load(load)
            oldest = next((t for t in tickets if t in world.leases), None)
            if oldest is not None:
                info = tickets.pop(oldest)
                served[info.name] += 1
                tickets[world.acquire(info)] = info
                world.leave(oldest)
        loads = sum(isinstance(event, events.CheckpointLoaded) for event in world.events)
        assert min(served.values()) > 60
        assert loads < 25
        assert world.stopped_while_serving == []

    def test_who_waits_for_its_own_unload_is_in_nobodys_way(self) -> None:
        world = World()
        world.use(A)
        world.acquire(A)
        world.unload("a")
        world.acquire(A)
        world.acquire(B)
        assert list(world.loading) == [key("b")]


class TestKeepAlive:
    def test_an_idle_model_leaves_after_its_time(self) -> None:
        world = World(idle_ttl_s=10.0)
        world.use(A)
        world.pass_time(9)
        assert world.stopping == set()
        world.pass_time(2)
        world.reap()
        assert world.departures() == [("a", "ttl")]

    def test_a_request_may_say_how_long(self) -> None:
        world = World(idle_ttl_s=10.0)
        world.leave(world.acquire(A, keep_alive_s=100.0))
        world.load()
        world.pass_time(99)
        assert world.stopping == set()
        world.pass_time(2)
        assert world.stopping == {key("a")}

    def test_the_last_one_to_say_so_counts(self) -> None:
        world = World()
        world.use(A)
        world.leave(world.acquire(A, keep_alive_s=5.0))
        world.leave(world.acquire(A))
        world.pass_time(100)
        assert world.stopping == set()

    def test_nothing_means_as_soon_as_it_is_idle(self) -> None:
        world = World()
        first, second = world.acquire(A, keep_alive_s=0.0), world.acquire(A, keep_alive_s=0.0)
        world.load()
        world.leave(first)
        assert world.stopping == set()
        world.leave(second)
        assert world.stopping == {key("a")}

    def test_below_nothing_means_for_ever(self) -> None:
        world = World(idle_ttl_s=10.0)
        world.leave(world.acquire(A, keep_alive_s=-1))
        world.load()
        world.pass_time(10_000)
        assert world.resident() == ["a"]


class TestUnload:
    def test_it_waits_for_who_runs_and_is_answered_when_the_worker_is_gone(self) -> None:
        world = World()
        world.use(A)
        lease = world.acquire(A)
        unload = world.unload("a")
        assert world.stopping == set()
        world.leave(lease)
        assert unload in world.unloads
        world.reap()
        assert world.unloaded == {unload: 1}
        assert world.departures() == [("a", "manual")]

    def test_nothing_to_unload_is_answered_at_once(self) -> None:
        world = World()
        assert world.unloaded == {world.unload("a"): 0}

    def test_it_waits_a_bounded_time(self) -> None:
        world = World(unload_timeout_s=60.0)
        world.acquire(A)
        world.load()
        world.unload()
        world.pass_time(61)
        assert world.stopping == {key("a")}

    def test_to_ask_again_moves_no_deadline(self) -> None:
        world = World(unload_timeout_s=60.0)
        world.acquire(A)
        world.load()
        world.unload()
        world.pass_time(50)
        world.unload()
        world.pass_time(11)
        assert world.stopping == {key("a")}

    def test_force_waits_for_nobody(self) -> None:
        world = World()
        world.acquire(A)
        world.load()
        world.unload(force=True)
        assert world.stopping == {key("a")}

    def test_force_cuts_short_an_unload_that_waits(self) -> None:
        world = World()
        world.acquire(A)
        world.load()
        patient, forced = world.unload(), world.unload(force=True)
        world.reap()
        assert world.unloaded == {patient: 1, forced: 1}

    def test_during_a_load_it_lets_those_finish_who_wait_for_it(self) -> None:
        world = World()
        ticket = world.acquire(A)
        world.unload()
        late = world.acquire(A)
        world.load()
        assert ticket in world.leases
        assert late in world.waiting
        world.leave(ticket)
        world.reap()
        world.load()
        assert late in world.leases

    def test_force_gives_a_load_up(self) -> None:
        world = World()
        ticket = world.acquire(A)
        unload = world.unload(force=True)
        assert world.aborted == {key("a")}
        assert isinstance(world.refused[ticket], errors.Unavailable)
        world.fail(error=errors.Unavailable("the load was given up"))
        assert unload in world.unloaded
        assert world.departures() == [("a", "manual")]
        assert not [e for e in world.events if isinstance(e, events.CheckpointLoadFailed)]

    def test_a_load_that_was_given_up_too_late_is_stopped(self) -> None:
        world = World()
        world.acquire(A)
        world.unload(force=True)
        world.load()
        assert world.stopping == {key("a")}
        world.reap()
        assert world.resident() == []

    def test_a_caller_who_leaves_stops_no_unload(self) -> None:
        world = World()
        world.use(A)
        world.leave(world.unload())
        world.reap()
        assert world.unloaded == {}

    def test_what_drains_for_others_leaves_when_a_caller_says_so(self) -> None:
        world = World({Device.CPU: budget(1)}, max_wait_s=5.0)
        world.acquire(A)
        world.load()
        waiting = world.acquire(B)
        world.pass_time(6)
        world.unload("a")
        world.leave(waiting)
        slot = world.scheduler.ledger.slots[key("a")]
        assert (slot.state, slot.leaving) == (SlotState.DRAINING, Departure.MANUAL)


class TestLoss:
    def test_a_lost_worker_frees_its_room(self) -> None:
        world = World()
        world.acquire(A)
        world.load()
        world.reap(key("a"), "killed by SIGSEGV")
        assert world.departures() == [("a", "crash")]
        assert world.acquire(A) in world.waiting
        assert list(world.loading) == [key("a")]

    def test_one_lost_while_it_drains_was_lost_all_the_same(self) -> None:
        world = World()
        world.acquire(A)
        world.load()
        unload = world.unload()
        world.reap(key("a"), "killed by SIGSEGV")
        assert world.departures() == [("a", "crash")]
        assert world.unloaded == {unload: 1}


class TestReconfigure:
    def test_with_less_room_the_least_recently_used_idle_ones_go(self) -> None:
        world = World({Device.CPU: budget(3)})
        for info in (A, B, C):
            world.use(info)
        world.reconfigure({Device.CPU: budget(2)})
        assert world.stopping == {key("a")}
        world.reap()
        assert world.departures() == [("a", "pressure")]
        assert world.resident() == ["b", "c"]

    def test_with_less_memory_too(self) -> None:
        world = World({Device.CPU: budget(3, 100)})
        for name in "abc":
            world.use(model(name, 30))
        world.reconfigure({Device.CPU: budget(3, 40)})
        assert world.stopping == {key("a"), key("b")}

    def test_who_runs_goes_on_and_leaves_when_it_is_idle(self) -> None:
        world = World({Device.CPU: budget(2)})
        world.use(A)
        lease = world.acquire(A)
        world.pass_time(1)
        world.use(B)
        busy = world.acquire(B)
        world.reconfigure({Device.CPU: budget(1)})
        assert (world.stopping, {lease, busy} <= world.leases.keys()) == (set(), True)
        world.pass_time(1)
        world.leave(busy)
        assert world.stopping == set()  # it was used last
        world.pass_time(1)
        world.leave(lease)
        assert world.stopping == {key("b")}

    def test_what_is_pinned_stays(self) -> None:
        world = World({Device.CPU: budget(2)})
        for info in (A, B):
            world.use(info)
        world.pin(A)
        world.reconfigure({Device.CPU: budget(1)})
        assert world.stopping == set()

    def test_with_more_room_those_who_wait_for_it_load(self) -> None:
        world = World({Device.CPU: budget(1)})
        world.use(A)
        world.acquire(A)
        world.acquire(B)
        assert world.loading == {}
        world.reconfigure({Device.CPU: budget(2)})
        assert list(world.loading) == [key("b")]

    def test_other_bounds_hold_for_the_next_request(self) -> None:
        world = World(max_queue=0)
        world.use(A)
        for _ in range(2):
            world.acquire(A)
        assert isinstance(world.refused[world.acquire(A)], errors.QueueFull)
        world.reconfigure(max_queue=1)
        assert world.acquire(A) in world.leases


class TestDrain:
    def test_who_waits_for_room_is_refused_and_who_has_a_lease_goes_on(self) -> None:
        world = World({Device.CPU: budget(1)})
        world.use(A)
        busy, waiting = world.acquire(A), world.acquire(B)
        world.drain()
        assert isinstance(world.refused[waiting], errors.Draining)
        assert busy in world.leases
        assert (world.resident(), world.stopping) == (["a"], set())
        assert isinstance(world.refused[world.acquire(A)], errors.Draining)

    def test_a_load_is_given_up_and_who_waits_for_it_is_refused(self) -> None:
        world = World()
        waiting = world.acquire(A)
        world.drain()
        assert isinstance(world.refused[waiting], errors.Draining)
        assert world.aborted == {key("a")}
        world.fail(key("a"), errors.Unavailable("the load was given up"))
        assert world.departures() == [("a", "shutdown")]

    def test_a_load_that_was_given_up_too_late_ends_at_once(self) -> None:
        world = World()
        world.acquire(A)
        world.drain()
        world.load()
        assert world.stopping == {key("a")}

    def test_what_drained_for_others_stays_for_those_that_it_serves(self) -> None:
        world = World({Device.CPU: budget(1)}, max_wait_s=1.0)
        world.use(A)
        busy = world.acquire(A)
        world.acquire(B)
        world.pass_time(2)
        assert world.scheduler.ledger.slots[key("a")].state is SlotState.DRAINING
        world.drain()
        assert world.scheduler.ledger.slots[key("a")].state is SlotState.RESIDENT
        assert busy in world.leases

    def test_closing_after_it_ends_the_rest(self) -> None:
        world = World()
        world.use(A)
        world.acquire(A)
        world.drain()
        close = world.close()
        world.reap()
        assert world.unloaded == {close: 1}
        assert world.departures() == [("a", "shutdown")]


class TestClose:
    def test_everything_goes_and_nothing_comes(self) -> None:
        world = World({Device.CPU: budget(1)})
        world.use(A)
        busy, waiting = world.acquire(A), world.acquire(B)
        close = world.close()
        assert isinstance(world.refused[waiting], errors.Draining)
        assert world.stopping == {key("a")}
        assert isinstance(world.refused[world.acquire(A)], errors.Draining)
        world.reap()
        assert world.unloaded == {close: 1}
        assert busy not in world.leases
        assert world.departures() == [("a", "shutdown")]

    def test_what_loads_is_given_up(self) -> None:
        world = World()
        world.acquire(A)
        world.close()
        assert world.aborted == {key("a")}


@pytest.mark.parametrize("min_residency_s", [0.0, 3.0])
@pytest.mark.parametrize("room", [4, 8])
def test_hits_on_zipf_traces_are_those_of_an_lru(room: int, min_residency_s: float) -> None:
    world = World({Device.CPU: budget(room, 1000)}, min_residency_s=min_residency_s)
    models = [model(f"m{n}") for n in range(30)]
    chance = random.Random(7)  # noqa: S311
    weights = [1 / (rank + 1) for rank in range(len(models))]
    cache: OrderedDict[str, None] = OrderedDict()
    hits = reference = 0
    for info in chance.choices(models, weights, k=3000):
        world.pass_time(1)
        hits += world.use(info)
        reference += info.name in cache
        cache[info.name] = None
        cache.move_to_end(info.name)
        if len(cache) > room:
            cache.popitem(last=False)
    assert hits == reference
    assert 500 < hits < 2900
    assert world.stopped_while_serving == []


MODELS = [model(name, size) for name, size in zip("abcde", (10, 20, 30, 45, 70), strict=True)]
DEVICES = [Device.NPU, Device.CPU]
index = st.integers(0, 1_000_000)


def nth(known: Iterable[Any], pick: int) -> Any:
    """One of them, the same one in every run."""
    ordered = sorted(known, key=str)
    return ordered[pick % len(ordered)]


class Chaos(RuleBasedStateMachine):
    """Anything at any time. `World` asserts what no step may do; here is what must hold after."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            {Device.NPU: budget(1, 50), Device.CPU: budget(3, 80)},
            max_queue=2,
            max_client_queue=1,
            min_residency_s=2.0,
            max_wait_s=4.0,
            queue_timeout_s=40.0,
            idle_ttl_s=15.0,
            unload_timeout_s=20.0,
        )

    @rule(
        info=st.sampled_from(MODELS),
        devices=st.sampled_from([DEVICES, DEVICES[:1], DEVICES[1:]]),
        client=st.sampled_from([None, "one", "other"]),
        keep_alive_s=st.sampled_from([None, -1.0, 0.0, 7.0]),
    )
    def acquire(self, info, devices, client, keep_alive_s):  # type: ignore[no-untyped-def]
        self.world.acquire(info, *devices, client=client, keep_alive_s=keep_alive_s)

    @precondition(lambda self: self.world.waiting)
    @rule(pick=index)
    def give_up(self, pick: int) -> None:
        self.world.leave(nth(self.world.waiting, pick))

    @precondition(lambda self: self.world.leases)
    @rule(pick=index, memory_bytes=st.integers(0, 60))
    def give_back(self, pick: int, memory_bytes: int) -> None:
        self.world.leave(nth(self.world.leases, pick), memory_bytes)

    @precondition(lambda self: self.world.loading)
    @rule(pick=index, memory_bytes=st.one_of(st.none(), st.integers(1, 60)))
    def finish_load(self, pick: int, memory_bytes: int | None) -> None:
        self.world.load(nth(self.world.loading, pick), memory_bytes)

    @precondition(lambda self: self.world.loading)
    @rule(pick=index)
    def fail_load(self, pick: int) -> None:
        self.world.fail(nth(self.world.loading, pick))

    @precondition(lambda self: self.world.stopping)
    @rule(pick=index)
    def reap(self, pick: int) -> None:
        self.world.reap(nth(self.world.stopping, pick))

    @precondition(lambda self: self.world.alive)
    @rule(pick=index)
    def lose(self, pick: int) -> None:
        self.world.reap(nth(self.world.alive, pick), "killed")

    @rule(
        name=st.sampled_from([None, "a", "b", "c"]),
        device=st.sampled_from([None, *DEVICES]),
        force=st.booleans(),
    )
    def unload(self, name, device, force):  # type: ignore[no-untyped-def]
        self.world.unload(name, device, force=force)

    @rule(infos=st.sets(st.sampled_from(range(3)), max_size=2), device=st.sampled_from(DEVICES))
    def pin(self, infos: set[int], device: Device) -> None:
        self.world.pin(*(MODELS[n] for n in infos), device=device)

    @rule(max_models=st.integers(1, 3), memory_bytes=st.sampled_from([30, 80]))
    def reconfigure(self, max_models: int, memory_bytes: int) -> None:
        npu = self.world.scheduler.budgets[Device.NPU]
        cpu = budget(max_models, memory_bytes)
        self.world.reconfigure({Device.NPU: npu, Device.CPU: cpu})

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def nobody_is_stopped_while_serving(self) -> None:
        assert self.world.stopped_while_serving == []

    @invariant()
    def nobody_is_lost(self) -> None:
        world, ledger = self.world, self.world.scheduler.ledger
        assert set(ledger.deadlines) == world.waiting
        for ticket, held in world.leases.items():
            assert ledger.place(ticket).key == held
        assert set(ledger.slots) == set(world.loading) | world.alive
        assert set(ledger.clients) <= world.waiting | set(world.leases)

    @invariant()
    def nothing_is_charged_less_than_its_reserve(self) -> None:
        for slot in self.world.scheduler.ledger.slots.values():
            assert slot.memory_bytes >= slot.reserved_bytes

    @invariant()
    def no_client_has_more_than_its_bound(self) -> None:
        ledger = self.world.scheduler.ledger
        whose = Counter((ledger.place(t).key, client) for t, client in ledger.clients.items())
        assert not whose or max(whose.values()) <= 3

    @invariant()
    def there_are_never_too_many(self) -> None:
        for device, most in ((Device.NPU, 1), (Device.CPU, 3)):
            assert len(self.world.scheduler.ledger.on(device)) <= most

    @invariant()
    def who_is_idle_and_too_much_is_on_its_way_out(self) -> None:
        scheduler, now = self.world.scheduler, self.world.now
        for device, allowed in scheduler.budgets.items():
            staying = [slot for slot in scheduler.ledger.on(device) if not slot.going]
            for slot in staying if len(staying) > allowed.max_models else ():
                last = max(staying, key=lambda slot: slot.last_use)
                young = slot.loaded_at + 2.0 > now
                assert not slot.idle or scheduler.pinned(slot) or young or slot is last

    def teardown(self) -> None:
        """Whatever it was: it comes to an end when every load, stop and request does."""
        world = self.world
        for _ in range(500):
            if world.stopping:
                world.reap(next(iter(world.stopping)))
            elif world.loading:
                world.load(next(iter(world.loading)))
            elif world.leases:
                world.leave(next(iter(world.leases)))
            elif world.waiting or world.unloads:
                wake = world.scheduler.next_wake(world.now)
                assert wake is not None, "somebody waits for nothing"
                world.pass_time(wake - world.now)
            else:
                break
        assert (world.waiting, world.unloads) == (set(), set())
        assert world.stopped_while_serving == []


class DrainingChaos(Chaos):
    """And then it drains."""

    @precondition(lambda self: self.world.waiting)
    @rule()
    def drain(self) -> None:
        self.world.drain()
        assert self.world.waiting == set()


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestDrainingChaos = DrainingChaos.TestCase
TestDrainingChaos.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
