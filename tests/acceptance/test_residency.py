"""Several models and less room: who stays and who goes, against a real daemon."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests import checkpoints
from tests.daemon import Daemon, eventually
from tests.stories import assert_whole, kept_busy, story

Start = Callable[..., Daemon]
MB = 1_000_000


def _memory(daemon: Daemon) -> int:
    """Bytes that only the daemon and its workers have: what the machine gets back when they end.

    Not the resident size, in which each worker counts the libraries that all of them share, nor
    the proportional one, which depends on how many strangers have the same libraries open. (The
    weights are read and not mapped, so none of a model hides among the shared pages.)
    """
    process = psutil.Process(daemon.process.pid)
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().uss for member in family)


def test_the_least_recently_used_goes_with_its_process_and_its_memory(start_abc: Start) -> None:
    daemon = start_abc(room=2)
    daemon.use("a", "b", "a")
    before, b = _memory(daemon), psutil.Process(daemon.resident()["b"])
    daemon.use("c")
    assert list(daemon.resident()) == ["c", "a"]
    assert not b.is_running()
    after = _memory(daemon)
    print(f"two models: {before / MB:.1f} MB, and {after / MB:.1f} MB later")  # noqa: T201
    assert abs(after - before) < 10 * MB
    daemon.use("b", "c")
    assert daemon.departures(reason="lru") == ["b", "a"]
    assert abs(_memory(daemon) - before) < 10 * MB
    assert len(daemon.workers()) == 2


def test_a_budget_of_bytes_makes_room_as_a_number_of_models_does(
    start_daemon: Start, cache_dir: Path, tmp_path: Path
) -> None:
    """With a context so short that the estimate is near what is measured: room for two and a half
    models has then room for two, whether or not the newcomer has been measured."""
    source = checkpoints.original(cache_dir)
    short = checkpoints.config(source, context_length=256)
    for name in "abc":
        checkpoints.link(source, tmp_path / "short" / name, short)
    settings = {
        "LEMONADE_CACHE_DIR": str(tmp_path / "short"),
        "LEMONADE_POOL__MIN_RESIDENCY_S": "0",
    }
    daemon = start_daemon(**settings)
    daemon.use("a")
    size = daemon.model()["memory_bytes"]
    (loading,) = daemon.logged("checkpoint_loading")
    assert size <= loading["reserved_bytes"] < 1.6 * size
    daemon.terminate()

    budget = int(2.7 * size)
    daemon = start_daemon(**settings, LEMONADE_DEVICES__CPU__MEMORY_BUDGET=str(budget))
    daemon.use("a", "b", "a")
    before, b = _memory(daemon), psutil.Process(daemon.resident()["b"])
    daemon.use("c")
    assert list(daemon.resident()) == ["c", "a"]
    assert not b.is_running()
    assert abs(_memory(daemon) - before) < 10 * MB
    daemon.use("b")
    assert list(daemon.resident()) == ["b", "c"]
    # each before the next one's load, and not when the budget was exceeded
    assert daemon.departures(reason="lru") == ["b", "a"]
    (cpu,) = daemon.health()["devices"]
    assert cpu["memory_budget_bytes"] == budget
    assert size < cpu["memory_used_bytes"] <= budget


def test_a_model_that_could_never_fit_is_refused_and_evicts_nobody(
    start_daemon: Start, abc_dir: Path
) -> None:
    daemon = start_daemon(
        LEMONADE_CACHE_DIR=str(abc_dir), LEMONADE_DEVICES__CPU__MEMORY_BUDGET="100MiB"
    )
    refused = daemon.complete("a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_capacity")
    assert "memory_budget" in refused.json()["error"]["message"]
    assert not daemon.logged("checkpoint_loading")


LOOKS = [
    ("GET", "/livez"),
    ("GET", "/live"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/schema"),
    ("GET", "/schema/openapi.json"),
    ("GET", "/api/v0/health"),
    ("GET", "/api/v0/stats"),
    ("GET", "/api/v0/stats?model=b"),
    ("GET", "/api/v0/models"),
    ("POST", "/api/v0/models"),
    ("GET", "/api/v0/params"),
    ("GET", "/api/v0/params?model=b"),
    ("GET", "/v1/models"),
    ("GET", "/api/v1/models"),
    ("GET", "/v1/models/b"),
    ("GET", "/v1/models/c"),
]


def test_looking_loads_nothing_and_changes_no_order(start_abc: Start) -> None:
    daemon = start_abc(room=2)

    def look() -> None:
        for verb, path in LOOKS * 3:
            assert daemon.client.request(verb, path).status_code == 200, path

    look()
    assert not daemon.logged("checkpoint_loading")
    daemon.use("b", "a")
    look()
    assert list(daemon.resident()) == ["a", "b"]
    daemon.use("c")
    assert daemon.departures() == ["b"]
    assert daemon.loads() == {"a": 1, "b": 1, "c": 1}


def test_each_device_evicts_only_its_own_and_both_run_at_once(
    start_abc: Start, together: ThreadPoolExecutor
) -> None:
    daemon = start_abc(room=1, LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER="cpu")

    def complete(model: str, device: str) -> int:
        body = {"model": model, "device": device, "prompt": "Hi", "max_length": 2}
        return daemon.client.post("/api/v0/completions", json=body).status_code

    def where() -> dict[str, str]:
        return {m["device"]: m["model_name"] for m in daemon.health()["all_models_loaded"]}

    devices = daemon.health()["devices"]
    assert [d["device"] for d in devices] == ["npu", "cpu"]
    assert [d["execution_provider"] for d in devices] == ["cpu", "cpu"]
    assert complete("a", "npu") == complete("b", "cpu") == 200
    stories = [story(daemon, model, 60) for model in "ab"]
    assert all(m["is_streaming"] for m in daemon.health()["all_models_loaded"])
    for whole in [together.submit(assert_whole, each, 60) for each in stories]:
        whole.result()
    # a, on the other device, is the least recently used of all
    assert complete("b", "cpu") == 200
    assert complete("c", "cpu") == 200
    assert where() == {"npu": "a", "cpu": "c"}
    assert complete("b", "npu") == 200
    assert where() == {"npu": "b", "cpu": "c"}
    evicted = [(line["model"], line["device"]) for line in daemon.logged("checkpoint_unloaded")]
    assert evicted == [("b", "cpu"), ("a", "npu")]


def test_a_busy_model_is_not_cut_while_others_come_and_go(start_abc: Start) -> None:
    daemon = start_abc(room=2)
    with kept_busy(daemon, "a"):
        daemon.use("b", "c", "b", "c")
    assert daemon.departures() == ["b", "c", "b"]
    assert daemon.loads()["a"] == 1


def test_pins_survive_a_kill_and_are_in_nobody_s_way_when_taken_back(start_abc: Start) -> None:
    daemon = start_abc(room=1)
    answer = daemon.client.post("/api/v0/pin", json={"model": "a"})
    assert answer.json()["status"] == "success"
    daemon.kill()

    daemon = start_abc(room=1)
    eventually(lambda: list(daemon.resident()) == ["a"])
    assert daemon.model()["pinned"]
    for stream in (False, True):
        refused = daemon.complete("b", stream=stream)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "slots_pinned_error"
        assert int(refused.headers["Retry-After"]) >= 1
    assert daemon.client.post("/api/v0/load", json={"model": "b"}).json()["code"] == (
        "slots_pinned_error"
    )
    assert daemon.loads() == {"a": 1}
    assert daemon.client.post("/api/v0/unpin", json={"model": "a"}).status_code == 200
    assert not daemon.model()["pinned"]
    daemon.use("b")
    assert list(daemon.resident()) == ["b"]
    daemon.kill()

    daemon = start_abc(room=1, LEMONADE_POOL__PRELOAD="c")
    eventually(lambda: list(daemon.resident()) == ["c"])
    assert daemon.loads() == {"c": 1}


def test_what_is_pinned_stays_although_it_was_used_least(start_abc: Start) -> None:
    daemon = start_abc(room=2, LEMONADE_POOL__IDLE_TTL_S="0.2")
    assert daemon.client.post("/api/v0/pin", json={"model": "a"}).status_code == 200
    daemon.use("b")
    eventually(lambda: daemon.departures(reason="ttl") == ["b"])
    for model in "bc":
        assert daemon.complete(model, keep_alive=-1).status_code == 200
    assert daemon.departures() == ["b", "b"]
    assert list(daemon.resident()) == ["c", "a"]


def test_models_are_loaded_at_start_whatever_becomes_of_the_others(
    start_abc: Start,
) -> None:
    daemon = start_abc(room=2, LEMONADE_POOL__PRELOAD="b:nothing:a")
    eventually(lambda: set(daemon.resident()) == {"a", "b"})
    assert [line["model"] for line in daemon.logged("checkpoint_loading")] == ["b", "a"]
    (failed,) = daemon.logged("preload_failed")
    assert (failed["model"], failed["code"]) == ("nothing", "model_not_found")


def test_a_keep_alive_of_zero_unloads_as_soon_as_nobody_runs(start_abc: Start) -> None:
    daemon = start_abc(room=1)
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "Hi", "max_tokens": 1},
        "/v1/chat/completions": chat,
        "/api/v0/completions": {"prompt": "Hi", "max_length": 1},
    }
    for count, (path, body) in enumerate(bodies.items(), 1):
        running = story(daemon, "a", 30)
        answer = daemon.client.post(path, json={"model": "a", "keep_alive": 0, **body})
        assert answer.status_code == 200, answer.text
        assert_whole(running, 30)
        eventually(lambda: len(daemon.departures(reason="ttl")) == count)  # noqa: B023
        assert daemon.health()["all_models_loaded"] == []


def test_a_keep_alive_in_words_is_how_long_a_model_stays_unused(start_abc: Start) -> None:
    daemon = start_abc(room=2)
    daemon.use("b")
    assert daemon.complete("a", keep_alive="1500ms").status_code == 200
    (left,) = eventually(lambda: daemon.logged("checkpoint_unloaded"))
    assert (left["model"], left["reason"]) == ("a", "ttl")
    assert left["idle_s"] >= 1.5
    assert list(daemon.resident()) == ["b"]


def test_a_negative_keep_alive_keeps_what_the_settings_would_let_go(
    start_abc: Start,
) -> None:
    daemon = start_abc(room=2, LEMONADE_POOL__IDLE_TTL_S="0.2")
    assert daemon.complete("a", keep_alive=-1).status_code == 200
    daemon.use("b")  # used after a, and so due after it
    (left,) = eventually(lambda: daemon.logged("checkpoint_unloaded"))
    assert (left["model"], left["reason"]) == ("b", "ttl")
    assert list(daemon.resident()) == ["a"]
