"""What is asked for at the scrape."""

from __future__ import annotations

import pytest

from lemonade_serve.domain.events import Outcome
from lemonade_serve.domain.residency.slot import SlotState
from tests.unit.telemetry.house import House, finished, slot

STATES = ["unloaded", *(state.value for state in SlotState)]


@pytest.fixture
def house() -> House:
    house = House()
    house.metrics.know(["small"])
    return house


def states(house: House) -> set[str]:
    """Those that the model is in; it has a series for each."""
    values = {state: house.of("model_state", state=state) for state in STATES}
    assert set(values.values()) <= {0, 1}
    return {state for state, value in values.items() if value}


@pytest.mark.parametrize("state", SlotState)
def test_a_model_is_in_the_state_of_its_slot(house: House, state: SlotState) -> None:
    house.slots = [slot(state=state)]
    assert states(house) == {state.value}


def test_a_model_without_a_slot_is_unloaded(house: House) -> None:
    assert states(house) == {"unloaded"}
    assert house.of("model_memory_bytes") == 0
    assert house.of("model_pinned") == 0
    assert house.of("requests_running") == 0
    assert house.of("requests_waiting") == 0
    assert house.of("model_last_used_timestamp_seconds") is None


def test_a_slot_tells_of_its_requests_and_its_memory(house: House) -> None:
    house.slots = [slot(pinned=True)]
    assert house.of("requests_running") == 1
    assert house.of("requests_waiting") == 2
    assert house.of("model_memory_bytes") == 300
    assert house.of("model_pinned") == 1


def test_the_use_of_a_kv_cache_is_a_share_of_its_room(house: House) -> None:
    assert house.of("kv_cache_usage_ratio") == 0
    house.slots = [slot(kv_tokens=250)]
    assert house.of("kv_cache_usage_ratio") == 0.25
    house.slots = [slot(kv_tokens=250), slot(dtype="fp16", kv_tokens=350)]
    assert house.of("kv_cache_usage_ratio") == 0.3
    house.slots = [slot(state=SlotState.WAITING, kv_cache_tokens=0)]
    assert house.of("kv_cache_usage_ratio") == 0


def test_the_last_use_is_in_unix_time(house: House) -> None:
    house.slots = [slot(last_use=90.0)]
    assert house.of("model_last_used_timestamp_seconds") == 4990.0


def test_what_happens_between_two_scrapes_shows(house: House) -> None:
    house.slots = [slot(state=SlotState.LOADING)]
    assert states(house) == {"loading"}
    house.slots = []
    assert states(house) == {"unloaded"}


def test_two_checkpoints_of_a_model_on_a_device_share_their_series(house: House) -> None:
    house.slots = [
        slot(dtype="int4", running=1, waiting=0, pinned=True, last_use=80.0),
        slot(dtype="fp16", running=2, waiting=3, state=SlotState.LOADING, last_use=95.0),
    ]
    assert states(house) == {"resident", "loading"}
    assert house.of("requests_running") == 3
    assert house.of("requests_waiting") == 3
    assert house.of("model_memory_bytes") == 600
    assert house.of("model_pinned") == 1
    assert house.of("model_last_used_timestamp_seconds") == 4995.0


def test_a_model_is_unloaded_where_it_has_no_slot() -> None:
    house = House("npu", "cpu")
    house.metrics.know(["small"])
    house.slots = [slot(device="npu")]
    assert states(house) == {"unloaded"}
    assert house("model_state", model="small", device="npu", state="resident") == 1


def test_a_slot_shows_before_any_event_names_its_model() -> None:
    house = House()
    house.slots = [slot()]
    assert states(house) == {"resident"}


def test_devices_tell_of_their_memory() -> None:
    house = House("npu", "cpu")
    for device in ("npu", "cpu"):
        assert house("device_memory_budget_bytes", device=device) == 1000
        assert house("device_memory_used_bytes", device=device) == 300


def test_draining_shows(house: House) -> None:
    assert house("draining") == 0
    house.draining = True
    assert house("draining") == 1


def test_the_last_request_is_the_one_that_stats_tell_of(house: House) -> None:
    house.see(finished(prompt_tokens=99), finished(), finished(outcome=Outcome.ERROR))
    last = house.stats.last("small")
    assert last
    assert house.of("last_request_input_tokens") == last.prompt_tokens == 7
    assert house.of("last_request_output_tokens") == last.completion_tokens == 3
    assert house.of("last_request_time_to_first_token_seconds") == last.time_to_first_token == 1
    assert house.of("last_request_tokens_per_second") == pytest.approx(2 / 3)


def test_there_is_no_last_request_before_the_first(house: House) -> None:
    assert house.of("last_request_output_tokens") is None


def test_a_last_request_of_one_token_had_no_speed(house: House) -> None:
    house.see(finished(), finished(completion_tokens=1, token_gaps=()))
    assert house.of("last_request_output_tokens") == 1
    assert house.of("last_request_tokens_per_second") is None


def test_a_model_has_one_last_request_wherever_it_ran() -> None:
    house = House("npu", "cpu")
    house.see(finished(device="npu"), finished(device="cpu"))
    assert house("last_request_output_tokens", model="small", device="npu") is None
    assert house("last_request_output_tokens", model="small", device="cpu") == 3
