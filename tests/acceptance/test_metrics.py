"""`/metrics` of a real daemon against what its clients saw."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import checkpoints
from tests.daemon import Daemon, eventually
from tests.scrape import OPENMETRICS, Scrape
from tests.stories import assert_whole, story

StartDaemon = Callable[..., Daemon]
CLIENTS = 4
TOKENS = 4


class Usage(NamedTuple):
    """What a client was told that its request came to."""

    endpoint: str
    prompt: int
    cached: int
    generated: int


def _usage(endpoint: str, told: dict[str, Any]) -> Usage:
    """Of a prompt that begins as no other does, where the dialect does not say what was cached."""
    details = told.get("prompt_tokens_details", {"cached_tokens": 0})
    return Usage(
        endpoint, told["prompt_tokens"], details["cached_tokens"], told["completion_tokens"]
    )


class Client:
    """Asks in every way there is, and keeps count. `number` makes its own prompts differ from
    everyone else's in their first token, so that nothing of them is ever cached."""

    def __init__(self, daemon: Daemon, number: int) -> None:
        self._daemon = daemon
        self._number = number

    def ask(self, model: str) -> list[Usage]:
        return [*self._specification(model), *self._plain(model), *self._chat(model)]

    def _specification(self, model: str) -> list[Usage]:
        whole, streamed = "ABCDEFGH"[2 * self._number], "ABCDEFGH"[2 * self._number + 1]
        path, body = "/api/v0/completions", {"model": model, "max_length": TOKENS}
        text = self._whole(path, {**body, "prompt": f"{whole} is a letter"})
        *_, last = self._daemon.events(path, {**body, "prompt": f"{streamed} is another letter"})
        return [_usage("v0_completions", told["usage"]) for told in (text, last)]

    def _plain(self, model: str) -> list[Usage]:
        path, name = "/v1/completions", "completions"
        body = {"model": model, "max_tokens": TOKENS, "ignore_eos": True}
        shared = {**body, "prompt": "Once upon a time, in a country far away, there was"}
        whole = self._whole(path, shared)
        *_, last = self._daemon.events(path, {**shared, "stream_options": {"include_usage": True}})
        own = [1000 + self._number, 2000, 2001]
        pieces = list(self._daemon.events(path, {**body, "prompt": own}))
        assert not any("usage" in piece for piece in pieces)
        return [
            _usage(name, whole["usage"]),
            _usage(name, last["usage"]),
            Usage(name, len(own), 0, TOKENS),
        ]

    def _chat(self, model: str) -> list[Usage]:
        path, question = "/v1/chat/completions", {"role": "user", "content": "Who are you?"}
        body = {"model": model, "messages": [question], "max_completion_tokens": TOKENS}
        whole = self._whole(path, body)
        *_, last = self._daemon.events(path, {**body, "stream_options": {"include_usage": True}})
        return [_usage("chat_completions", told["usage"]) for told in (whole, last)]

    def _whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._daemon.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


def test_totals_are_the_sums_of_what_clients_were_told(start_abc: StartDaemon) -> None:
    daemon = start_abc(room=2)
    for model in "ab":
        daemon.client.post("/api/v0/load", json={"model": model})

    def in_turn(number: int) -> dict[str, list[Usage]]:
        models = "ab" if number % 2 else "ba"
        return {model: Client(daemon, number).ask(model) for model in models}

    with ThreadPoolExecutor(CLIENTS) as clients:
        told = list(clients.map(in_turn, range(CLIENTS)))
    scrape = Scrape(daemon)
    for model in "ab":
        _assert_sums(scrape, model, [usage for usages in told for usage in usages[model]])
    _assert_the_log_agrees(daemon, scrape)


def _assert_sums(scrape: Scrape, model: str, usages: list[Usage]) -> None:
    def total(name: str, **more: str) -> float:
        return scrape.total(name, model=model, device="cpu", **more)

    count, generated = len(usages), sum(usage.generated for usage in usages)
    prompt, cached = sum(u.prompt for u in usages), sum(u.cached for u in usages)
    assert count == CLIENTS * 7
    assert cached > 0
    assert total("prompt_tokens_total") == prompt
    assert total("cached_prompt_tokens_total") == cached
    assert total("generated_tokens_total") == generated
    assert total("requests_total") == count
    for endpoint, number in Counter(usage.endpoint for usage in usages).items():
        assert total("requests_total", endpoint=endpoint, outcome="ok") == number
        assert total("request_duration_seconds_count", endpoint=endpoint) == number
    for part in ("queue", "prefill", "decode"):
        assert total(f"request_{part}_duration_seconds_count") == count
    assert total("request_prompt_tokens_sum") == prompt
    assert total("request_generated_tokens_sum") == generated
    assert total("request_generated_tokens_count") == count
    assert total("inter_token_latency_seconds_count") == generated - count
    assert total("model_pool_hits_total") == count
    assert total("model_pool_misses_total") == 1
    assert total("requests_running") == total("requests_waiting") == 0


def _assert_the_log_agrees(daemon: Daemon, scrape: Scrape) -> None:
    """Each request's own line, too."""
    names = {
        "prompt_tokens": "prompt_tokens_total",
        "cached_tokens": "cached_prompt_tokens_total",
        "completion_tokens": "generated_tokens_total",
    }
    eventually(lambda: len(_lines(daemon)) == CLIENTS * 7 * 2)
    for field, name in names.items():
        assert sum(line[field] for line in _lines(daemon)) == scrape.total(name)


def _lines(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.logged("request_finished") if "prompt_tokens" in line]


@pytest.fixture
def own_models(cache_dir: Path, tmp_path: Path) -> Path:
    """A cache with `a`, `b` and one that is broken, which may be changed."""
    source, root = checkpoints.original(cache_dir), tmp_path / "models"
    for name in "ab":
        checkpoints.link(source, root / name)
    checkpoints.link(source, root / "broken", {"model.onnx.data": b"short"})
    return root


def test_loads_and_departures_are_counted_by_how_and_why(
    start_abc: StartDaemon, own_models: Path
) -> None:
    daemon = start_abc(room=1, LEMONADE_CACHE_DIR=str(own_models))
    assert Scrape(daemon).nonzero("model_state", "model", "state") == {
        (name, "unloaded"): 1 for name in ("a", "b", "broken")
    }
    daemon.use("a", "a", "b")
    assert daemon.complete("broken").status_code == 500
    daemon.use("a")
    daemon.workers()[0].kill()
    eventually(lambda: daemon.departures(reason="crash") == ["a"])
    assert Scrape(daemon).total("worker_restarts_total") == 0
    daemon.use("a")
    daemon.client.post("/api/v0/unload")
    assert daemon.complete("b", keep_alive=0).status_code == 200
    eventually(lambda: daemon.departures(reason="ttl") == ["b"])
    daemon.use("a")

    scrape = Scrape(daemon)
    assert scrape.nonzero("model_loads_total", "model", "device", "outcome") == {
        ("a", "cpu", "ok"): 4,
        ("b", "cpu", "ok"): 2,
        ("broken", "cpu", "error"): 1,
    }
    assert scrape.nonzero("model_load_duration_seconds_count", "model") == {("a",): 4, ("b",): 2}
    assert scrape.nonzero("model_evictions_total", "model", "reason") == {
        ("a", "lru"): 1,
        ("b", "lru"): 1,
        ("a", "crash"): 1,
        ("a", "manual"): 1,
        ("b", "ttl"): 1,
    }
    assert scrape.nonzero("model_idle_at_eviction_seconds_count", "device") == {("cpu",): 3}
    assert scrape.nonzero("worker_restarts_total", "device", "reason") == {("cpu", "crash"): 1}
    assert scrape.nonzero("model_pool_hits_total", "model") == {("a",): 1}
    assert scrape.nonzero("model_pool_misses_total", "model") == {
        ("a",): 4,
        ("b",): 2,
        ("broken",): 1,
    }
    assert scrape.nonzero("requests_total", "model", "outcome") == {
        ("a", "ok"): 5,
        ("b", "ok"): 2,
        ("broken", "error"): 1,
    }
    assert scrape.nonzero("model_state", "model", "state") == {
        ("a", "resident"): 1,
        ("b", "unloaded"): 1,
        ("broken", "unloaded"): 1,
    }
    size = daemon.model()["memory_bytes"]
    assert scrape.nonzero("model_memory_bytes", "model") == {("a",): size}
    assert scrape.nonzero("device_memory_used_bytes", "device") == {("cpu",): size}


def test_nobody_is_named_and_what_no_catalogue_has_is_other(start_abc: StartDaemon) -> None:
    key = "a-key-that-nobody-may-see"
    daemon = start_abc(room=1, LEMONADE_API_KEYS__SOMEBODY=key)
    assert daemon.client.get("/metrics").status_code == 401
    headers = {"X-Client-Id": "the-phone", "X-Request-Id": "the-request"}
    daemon.client.headers.update({"Authorization": f"Bearer {key}", **headers})
    assert daemon.complete("a", user="the-user", prompt="zebra").status_code == 200
    body = {"temperature": 0.5, "model": "a"}
    assert daemon.client.post("/api/v0/params", json=body).status_code == 200
    for unknown in ("the-unknown", 'an "odd" name'):
        assert daemon.complete(unknown).status_code in (400, 404)
    scrape = Scrape(daemon)
    assert scrape.nonzero("requests_total", "model", "device", "endpoint", "outcome") == {
        ("a", "cpu", "completions", "ok"): 1,
        ("other", "none", "completions", "error"): 2,
    }
    assert scrape.models() == {"a", "b", "c", "other"}
    for secret in (key, "somebody", "the-", "zebra", "odd"):
        assert secret not in scrape.text.lower()


def test_a_scrape_is_answered_while_a_model_loads_and_while_the_daemon_drains(
    start_abc: StartDaemon, together: ThreadPoolExecutor
) -> None:
    daemon = start_abc(room=1)
    answer = together.submit(daemon.complete, "a")
    loading = eventually(lambda: _scrape_in_state(daemon, "loading"))
    assert loading.total("requests_waiting", model="a") == 1
    assert loading.total("model_memory_bytes", model="a") > 0
    assert loading.total("draining") == 0
    assert answer.result().status_code == 200
    assert _scrape_in_state(daemon, "resident")

    running = story(daemon, "a", 100)
    daemon.process.send_signal(signal.SIGTERM)
    eventually(lambda: daemon.logged("daemon_draining"))
    draining = Scrape(daemon)
    assert draining.total("draining") == 1
    assert draining.total("requests_running", model="a") == 1
    assert_whole(running, 100)


def _scrape_in_state(daemon: Daemon, state: str) -> Scrape | None:
    scrape = Scrape(daemon)
    return scrape if scrape.total("model_state", model="a", state=state) else None


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (f"{OPENMETRICS};version=1.0.0,text/plain;q=0.5", OPENMETRICS),
    ],
)
def test_the_format_is_the_one_that_is_accepted(
    shared_daemon: Daemon, accept: str, content_type: str
) -> None:
    shared_daemon.client.get("/api/v0/load", params={"model": "SmolLM2-135M-Instruct"})
    scrape = Scrape(shared_daemon, accept)
    assert scrape.content_type.startswith(content_type)
    assert scrape.text.endswith("# EOF\n") is (content_type == OPENMETRICS)
    assert scrape.total("model_loads_total", outcome="ok") >= 1
    assert not [family.name for family in scrape.families if family.name.endswith("_created")]


def test_a_removed_model_s_series_go_when_the_catalogue_was_listed(
    start_abc: StartDaemon, own_models: Path
) -> None:
    daemon = start_abc(room=2, LEMONADE_CACHE_DIR=str(own_models))
    daemon.use("a", "b")
    daemon.client.post("/api/v0/unload", json={"model": "b"})
    for name in "ab":
        shutil.rmtree(own_models / name)
    assert Scrape(daemon).models() == {"a", "b", "broken", "other"}
    assert [model["id"] for model in daemon.client.get("/v1/models").json()["data"]] == ["broken"]
    assert Scrape(daemon).models() == {"a", "broken", "other"}  # a is in memory still
    daemon.client.post("/api/v0/unload")
    daemon.client.get("/v1/models")
    assert Scrape(daemon).models() == {"broken", "other"}
