"""What is counted of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from lemonade_serve.domain.events import CatalogueListed, Departure, Outcome
from lemonade_serve.telemetry.metrics import ENCODING, GENERATING
from tests.unit.telemetry.house import (
    WHERE,
    House,
    decoded,
    finished,
    load_failed,
    loaded,
    refused,
    requested,
    unloaded,
)

POOLS_OWN = [Departure.LRU, Departure.TTL, Departure.PRESSURE]


@pytest.fixture
def house() -> House:
    house = House()
    house.metrics.know(["small"])
    return house


def test_a_request_is_counted_by_its_endpoint_and_outcome(house: House) -> None:
    house.see(finished(), finished(), finished(outcome=Outcome.CANCELLED))
    assert house.of("requests_total", endpoint="completions", outcome="ok") == 2
    assert house.of("requests_total", endpoint="completions", outcome="cancelled") == 1
    assert house.of("requests_total", endpoint="chat_completions", outcome="ok") == 0


def test_each_step_counts_the_sequences_that_it_gave_a_token(house: House) -> None:
    house.see(*(decoded(sequences) for sequences in (1, 3, 4, 100)), decoded(2, device="npu"))
    buckets = {bound: house.of("batch_size_bucket", le=bound) for bound in ("1.0", "4.0", "64.0")}
    assert buckets == {"1.0": 1, "4.0": 3, "64.0": 3}
    assert (house.of("batch_size_count"), house.of("batch_size_sum")) == (4, 108)
    assert house("batch_size_count", model="small", device="npu") == 1


@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 3, st.sampled_from(Outcome)), max_size=20))
def test_totals_are_the_sums_over_all_requests(
    requests: list[tuple[int, int, int, Outcome]],
) -> None:
    house = House()
    house.metrics.know(["small"])
    for prompt, cached, completion, outcome in requests:
        house.see(
            finished(
                prompt_tokens=prompt,
                cached_tokens=cached,
                completion_tokens=completion,
                outcome=outcome,
            )
        )
    assert house.of("prompt_tokens_total") == sum(request[0] for request in requests)
    assert house.of("cached_prompt_tokens_total") == sum(request[1] for request in requests)
    assert house.of("generated_tokens_total") == sum(request[2] for request in requests)


@pytest.mark.parametrize(
    ("family", "total"),
    [
        ("time_to_first_token_seconds", 1.0),
        ("time_per_output_token_seconds", 1.5),
        ("request_queue_duration_seconds", 0.25),
        ("request_prefill_duration_seconds", 0.75),
        ("request_decode_duration_seconds", 3.0),
        ("request_prompt_tokens", 7.0),
        ("request_generated_tokens", 3.0),
    ],
)
def test_a_request_is_observed_once_in_each_histogram(
    house: House, family: str, total: float
) -> None:
    house.see(finished())
    assert house.of(f"{family}_count") == 1
    assert house.of(f"{family}_sum") == total


def test_its_duration_is_observed_for_its_endpoint(house: House) -> None:
    house.see(finished(endpoint="v0_completions"))
    assert house.of("request_duration_seconds_count", endpoint="v0_completions") == 1
    assert house.of("request_duration_seconds_sum", endpoint="v0_completions") == 4.0
    assert house.of("request_duration_seconds_count", endpoint="completions") == 0


def test_each_gap_between_tokens_is_observed(house: House) -> None:
    house.see(finished(token_gaps=(0.001, 0.0011, 0.3, 9.0)))
    of_gaps = "inter_token_latency_seconds"
    assert house.of(f"{of_gaps}_count") == 4
    assert house.of(f"{of_gaps}_sum") == pytest.approx(9.3021)
    assert house.of(f"{of_gaps}_bucket", le="0.001") == 1
    assert house.of(f"{of_gaps}_bucket", le="0.0025") == 2
    assert house.of(f"{of_gaps}_bucket", le="2.5") == 3
    assert house.of(f"{of_gaps}_bucket", le="+Inf") == 4


def test_a_request_is_observed_only_as_far_as_it_came(house: House) -> None:
    house.see(
        finished(
            outcome=Outcome.ERROR,
            reason="no_capacity",
            queue_s=None,
            prefill_s=None,
            decode_s=None,
            time_to_first_token=None,
            token_gaps=(),
        )
    )
    histograms = [f for f in house.scrape().values() if f.type == "histogram"]
    counts = [s for f in histograms for s in f.samples if s.name.endswith("_count")]
    assert counts
    assert {sample.value for sample in counts} == {0}


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.ERROR])
def test_what_did_not_end_well_says_nothing_of_whole_requests(
    house: House, outcome: Outcome
) -> None:
    house.see(finished(outcome=outcome))
    assert house.of("time_to_first_token_seconds_count") == 1
    assert house.of("inter_token_latency_seconds_count") == 2
    assert house.of("request_duration_seconds_count", endpoint="completions") == 0
    assert house.of("request_decode_duration_seconds_count") == 0
    assert house.of("request_prompt_tokens_count") == 0
    assert house.of("request_generated_tokens_count") == 0


def test_requests_are_hits_or_misses(house: House) -> None:
    house.see(requested(resident=False), requested(resident=True), requested(resident=True))
    assert house.of("model_pool_hits_total") == 2
    assert house.of("model_pool_misses_total") == 1


def test_loads_are_counted_and_the_good_ones_timed(house: House) -> None:
    house.see(loaded(), load_failed(), load_failed())
    assert house.of("model_loads_total", outcome="ok") == 1
    assert house.of("model_loads_total", outcome="error") == 2
    assert house.of("model_load_duration_seconds_count") == 1
    assert house.of("model_load_duration_seconds_sum") == 2.0


@pytest.mark.parametrize("reason", Departure)
def test_departures_are_counted_by_their_reason(house: House, reason: Departure) -> None:
    house.see(unloaded(reason))
    counts = {r: house.of("model_evictions_total", reason=r.value) for r in Departure}
    assert counts == {r: int(r is reason) for r in Departure}


@pytest.mark.parametrize("reason", Departure)
def test_idle_time_is_that_of_what_the_pool_itself_let_go(house: House, reason: Departure) -> None:
    house.see(unloaded(reason))
    count = house("model_idle_at_eviction_seconds_count", device="cpu")
    assert count == int(reason in POOLS_OWN)


def restarts(house: House) -> float | None:
    return house("worker_restarts_total", device="cpu", reason="crash")


def test_a_load_after_a_crash_is_a_restart(house: House) -> None:
    house.see(loaded(), unloaded(Departure.CRASH))
    assert restarts(house) == 0
    house.see(load_failed())
    assert restarts(house) == 0
    house.see(loaded())
    assert restarts(house) == 1
    house.see(unloaded(Departure.LRU), loaded())
    assert restarts(house) == 1


def test_a_crash_concerns_one_model_on_one_device() -> None:
    house = House("npu", "cpu")
    house.see(unloaded(Departure.CRASH), loaded(model="large"), loaded(device="npu"))
    assert restarts(house) == 0


def test_a_refused_request_has_a_model_but_no_device(house: House) -> None:
    house.see(refused("small", reason="device_unavailable"))
    labels = {"device": "none", "endpoint": "completions", "outcome": "error"}
    assert house("requests_total", model="small", **labels) == 1
    assert house("requests_total", model="other", **labels) == 0


@pytest.mark.parametrize("model", ["no-such-model", "", None])
def test_a_model_that_the_catalogue_does_not_know_is_other(house: House, model: str | None) -> None:
    house.see(refused(model))
    labels = {"device": "none", "endpoint": "completions", "outcome": "error"}
    assert house("requests_total", model="other", **labels) == 1
    assert "no-such-model" not in house.text()


def test_an_event_of_a_checkpoint_makes_its_model_known() -> None:
    house = House()
    house.see(requested(resident=False), refused("small"))
    labels = {"device": "none", "endpoint": "completions", "outcome": "error"}
    assert house("requests_total", model="small", **labels) == 1
    assert house.of("generated_tokens_total") == 0


def test_what_clients_name_adds_no_series(house: House) -> None:
    house.see(refused("one", endpoint="e", reason="r", outcome=Outcome.REJECTED))
    before = set(house.samples())
    for n in range(50):
        house.see(refused(f"m{n}", endpoint=f"e{n}", reason=f"r{n}", outcome=Outcome.REJECTED))
    assert set(house.samples()) == before
    labels = {"device": "none", "endpoint": "other", "outcome": "rejected"}
    assert house("requests_total", model="other", **labels) == 51
    assert house("requests_rejected_total", reason="other") == 51


def test_rejections_are_counted_by_their_code_wherever_they_come_from(house: House) -> None:
    house.see(
        finished(outcome=Outcome.REJECTED, reason="no_capacity"),
        refused("small", outcome=Outcome.REJECTED, reason="rate_limit_error"),
        refused("small", outcome=Outcome.ERROR, reason="model_not_found"),
    )
    assert house("requests_rejected_total", reason="no_capacity") == 1
    assert house("requests_rejected_total", reason="rate_limit_error") == 1
    assert house("requests_rejected_total", reason="draining") == 0
    assert house("requests_rejected_total", reason="model_not_found") is None


def test_counting_makes_no_series_that_was_not_there_at_0() -> None:
    house = House("npu", "cpu")
    house.metrics.know(["small"])
    there = set(house.samples())
    house.see(
        *(finished(endpoint=endpoint, outcome=o) for endpoint in GENERATING for o in Outcome),
        *(refused("small", outcome=o) for o in Outcome if o is not Outcome.OK),
        *(refused(None, outcome=o) for o in Outcome if o is not Outcome.OK),
        requested(resident=True),
        load_failed(),
        *(unloaded(reason) for reason in Departure),
        unloaded(Departure.CRASH),
        loaded(),
    )
    new = {name for name, _ in set(house.samples()) - there}
    assert {name for name in new if "last_request" not in name} == set()


@pytest.mark.parametrize(("task", "endpoint"), ENCODING.items())
def test_an_encoder_has_the_series_of_its_own_endpoint_and_counts_nothing_generated(
    task: str, endpoint: str
) -> None:
    house = House("cpu")
    house.see(CatalogueListed(models=frozenset({"small"}), encoders={"small": task}))
    there = set(house.samples())
    event = {"endpoint": endpoint, "generates": False, "completion_tokens": 0, "cached_tokens": 0}
    silent = {"prefill_s": None, "decode_s": None, "time_to_first_token": None, "token_gaps": ()}
    house.see(
        *(finished(**event, **silent, outcome=o) for o in Outcome),
        *(refused("small", endpoint=endpoint, outcome=o) for o in Outcome if o is not Outcome.OK),
    )
    new = {name for name, _ in set(house.samples()) - there}
    assert {name for name in new if "last_request" not in name} == set()
    assert house("requests_total", endpoint="chat_completions", **WHERE, outcome="ok") is None
    assert house.of("request_prompt_tokens_count") == 1
    assert house.of("request_duration_seconds_count", endpoint=endpoint) == 1
    assert house.of("request_queue_duration_seconds_count") == len(Outcome)
    for name in ("generated_tokens", "prefill_duration_seconds", "decode_duration_seconds"):
        assert house.of(f"request_{name}_count") == 0
    assert house.of("time_to_first_token_seconds_count") == 0


def test_a_known_model_starts_at_0(house: House) -> None:
    of_model = {
        key: value
        for key, value in house.samples().items()
        if ("model", "small") in key[1] and ("state", "unloaded") not in key[1]
    }
    assert set(of_model.values()) == {0}
    assert house.of("generated_tokens_total") == 0
    assert house.of("inter_token_latency_seconds_bucket", le="+Inf") == 0


def test_knowing_a_model_again_changes_nothing(house: House) -> None:
    house.see(finished())
    before = house.samples()
    house.metrics.know(["small"])
    after = house.samples()
    assert {k: v for k, v in after.items() if k[0].startswith("lemonade_")} == {
        k: v for k, v in before.items() if k[0].startswith("lemonade_")
    }


def test_of_a_forgotten_model_no_series_is_left(house: House) -> None:
    house.see(
        requested(resident=False, model="gone"),
        loaded(model="gone"),
        finished(model="gone"),
        refused("gone"),
        unloaded(Departure.LRU, model="gone"),
    )
    assert 'model="gone"' in house.text()
    kept = {key for key in house.samples() if ("model", "gone") not in key[1]}
    house.metrics.forget("gone")
    assert "gone" not in house.text()
    assert set(house.samples()) == kept


def test_a_model_that_was_forgotten_is_other_and_then_starts_anew(house: House) -> None:
    house.see(loaded(), unloaded(Departure.CRASH), finished())
    house.metrics.forget("small")
    house.see(refused("small"))
    labels = {"device": "none", "endpoint": "completions", "outcome": "error"}
    assert house("requests_total", model="other", **labels) == 1
    house.see(loaded())
    assert house.of("model_loads_total", outcome="ok") == 1
    assert house.of("generated_tokens_total") == 0
    assert restarts(house) == 0


def test_what_is_neither_on_disk_nor_in_memory_is_forgotten(house: House) -> None:
    house.metrics.know(["gone", "kept"])
    house.see(CatalogueListed(models=frozenset({"kept", "new"})))
    models = {
        sample.labels.get("model")
        for family in house.scrape().values()
        for sample in family.samples
    }
    assert "gone" not in models
    assert {"kept", "new"} <= models


def test_forgetting_what_was_never_there_is_nothing(house: House) -> None:
    before = set(house.samples())
    house.metrics.forget("nobody")
    assert set(house.samples()) == before


def test_two_observers_share_nothing(house: House) -> None:
    other = House()
    house.see(finished())
    assert other.of("generated_tokens_total") is None
    assert [f.name for f in REGISTRY.collect() if f.name.startswith("lemonade_")] == []


def test_no_series_says_when_it_was_made(house: House) -> None:
    house.see(finished())
    assert "_created" not in house.text()
    assert "_created" not in house.text("application/openmetrics-text")


def test_the_version_is_told(house: House) -> None:
    assert house("build_info", version="1.2.3") == 1


def test_the_process_is_told_of(house: House) -> None:
    assert house.samples()["process_resident_memory_bytes", frozenset()] > 0


def test_devices_have_their_own_series() -> None:
    house = House("npu", "cpu")
    house.see(finished(device="npu"))
    assert house("generated_tokens_total", model="small", device="npu") == 3
    assert house("generated_tokens_total", **WHERE) == 0
