"""A day in the life of a daemon with room for one model, and an account of all that was done."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.daemon import eventually
from tests.system.prometheus import Sample
from tests.system.stack import Stack

STEP_S = 2
"""Of annotations: they are differences between then and now, so that then must be known."""
TOKENS = 4
STORY_TOKENS = 4000
"""A stream of so many is cut before it ends."""
STORY_PROMPT = 5
CRASHES = 3
REJECTED = 3
PATHS = {
    "v0_completions": "/api/v0/completions",
    "completions": "/v1/completions",
    "chat_completions": "/v1/chat/completions",
    "responses": "/v1/responses",
}


class Usage(NamedTuple):
    """What a client was told that its good request came to, in tokens."""

    endpoint: str
    prompt: int
    cached: int
    generated: int


class Day:
    """`live` is to happen once; then the rest says what must have come of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.begun = 0.0
        self.ended = 0.0
        """When Prometheus last saw the daemon, and had seen all of the day."""
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """By model, endpoint, outcome."""
        self.loads: Counter[tuple[str, str]] = Counter()
        """By model, outcome."""
        self.departures: Counter[tuple[str, str]] = Counter()
        """By model, reason."""
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        self.usage: dict[str, list[Usage]] = {"a": [], "b": []}
        self.stats: dict[str, dict[str, Any]] = {}
        """What `/stats` says of each model in the end."""
        self.memory_bytes = 0
        """What the one model is charged for that is there in the end."""
        self.budget_bytes = 0
        self.cut = 0
        """Streams of `a` that did not come to their end."""
        self.restarts = 0
        self._resident: str | None = None
        self._crashed: set[str] = set()
        self._stories = 0

    def live(self) -> None:
        self._dawn()
        twice = "Once upon a time, in a country far away, there was a king who had three sons."
        for _ in range(2):
            self._ask("a", "completions", prompt=twice)
        self._ask("b", "v0_completions", prompt="A is a letter")
        self._ask("a", "chat_completions", messages=[{"role": "user", "content": "Who are you?"}])
        self._ask("a", "responses", input="How are you?")
        self._ask("broken", "completions", status=500)
        self._ask("nothing", "completions", status=404)
        self._ask("a", "completions")
        self._crash_in_mid_stream()
        self._ask("a", "completions")
        for _ in range(CRASHES - 1):
            self._crash()
            self._ask("a", "completions")
        self._crowd()
        self._ask("b", "completions")
        self._seen('lemonade_model_state{model="b", state="resident"}')
        self._unload()
        self._ask("a", "completions")
        self._call("pin", model="a")
        self._wanted("a")
        self._dusk()

    def _dawn(self) -> None:
        """Prometheus has known the daemon for a while, and there was nothing to tell."""
        prometheus = self.stack.prometheus
        eventually(lambda: prometheus.instant(f"lemonade_draining offset {STEP_S}s"))
        assert prometheus.alerts() == set()
        self.begun = time.time()

    def _dusk(self) -> None:
        """Prometheus has seen the last request end."""
        told = sum(self.requests.values())
        query = self.stack.prometheus.instant
        eventually(lambda: [s.value for s in query("sum(lemonade_requests_total)")] == [told])
        self._seen("lemonade_model_pinned")
        (seen,) = query("timestamp(lemonade_draining)")
        self.ended = seen.value
        health = self._health()
        (model,), (device,) = health["all_models_loaded"], health["devices"]
        self.memory_bytes = model["memory_bytes"]
        self.budget_bytes = device["memory_budget_bytes"]
        for name in self.usage:
            stats = self.stack.daemon.get("/api/v0/stats", params={"model": name})
            self.stats[name] = stats.json()

    def _ask(self, model: str, endpoint: str, *, status: int = 200, **body: Any) -> None:
        """One request, and what comes of it where there is room for one model."""
        limit = {"completions": "max_tokens", "chat_completions": "max_completion_tokens"}
        limits = {"v0_completions": "max_length", "responses": "max_output_tokens", **limit}
        body = {limits[endpoint]: TOKENS, **(body or {"prompt": "Hi"})}
        if endpoint == "completions":
            body["ignore_eos"] = True
        answer = self.stack.daemon.post(PATHS[endpoint], json={"model": model, **body})
        assert answer.status_code == status, answer.text
        if model == "nothing":
            self.requests["other", endpoint, "error"] += 1
            return
        self._wanted(model, loads=status == 200)
        self.requests[model, endpoint, "ok" if status == 200 else "error"] += 1
        if status == 200:
            self.usage[model].append(_usage(endpoint, answer.json()["usage"]))

    def _wanted(self, model: str, *, loads: bool = True) -> None:
        if self._resident == model:
            self.hits[model] += 1
            return
        self.misses[model] += 1
        if self._resident:
            self.departures[self._resident, "lru"] += 1
        self.loads[model, "ok" if loads else "error"] += 1
        self._resident = model if loads else None
        if loads and model in self._crashed:
            self._crashed.remove(model)
            self.restarts += 1

    @contextmanager
    def _story(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a stream of `a` that has begun, and will not end; its prompt begins as no
        other one does."""
        self._stories += 1
        body = {
            "model": "a",
            "prompt": [1000 + self._stories, *range(2000, 2000 + STORY_PROMPT - 1)],
            "max_tokens": STORY_TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        self._wanted("a")
        with self.stack.daemon.stream("POST", PATHS["completions"], json=body) as answer:
            assert answer.status_code == 200, answer.read()
            data = (line for line in answer.iter_lines() if line.startswith("data: {"))
            events = (json.loads(line.removeprefix("data: ")) for line in data)
            next(events)
            yield events
        self.cut += 1

    def _crash_in_mid_stream(self) -> None:
        with self._story() as events:
            self._crash()
            *_, last = events
            assert last["error"]["code"] == "worker_lost", last
        self.requests["a", "completions", "error"] += 1

    def _crash(self) -> None:
        (model,) = self._loaded()
        self.stack.kill(model["pid"])
        eventually(lambda: not self._loaded())
        self.departures["a", "crash"] += 1
        self._crashed.add("a")
        self._resident = None

    def _crowd(self) -> None:
        """One request runs, one waits, which Prometheus sees, and further ones are turned away."""
        with ThreadPoolExecutor(1) as threads:
            with self._story():
                waiting = threads.submit(self._ask, "a", "completions")
                for what in ("running", "waiting"):
                    self._seen(f'lemonade_requests_{what}{{model="a"}}')
                for _ in range(REJECTED):
                    body = {"model": "a", "prompt": "Hi"}
                    answer = self.stack.daemon.post(PATHS["completions"], json=body)
                    assert answer.status_code == 429, answer.text
            waiting.result()
        self.requests["a", "completions", "rejected"] += REJECTED
        self.requests["a", "completions", "cancelled"] += 1

    def _unload(self) -> None:
        self._call("unload")
        self.departures["b", "manual"] += 1
        self._resident = None

    def _call(self, what: str, **body: str) -> None:
        answer = self.stack.daemon.post(f"/api/v0/{what}", json=body)
        assert answer.status_code == 200, answer.text

    def _seen(self, series: str) -> None:
        """Prometheus sees a 1 there."""
        eventually(lambda: self.stack.prometheus.instant(f"{series} == 1"))

    def _health(self) -> dict[str, Any]:
        health: dict[str, Any] = self.stack.daemon.get("/api/v0/health").json()
        return health

    def _loaded(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = self._health()["all_models_loaded"]
        return models

    def at_dusk(self, expression: str) -> list[Sample]:
        return self.stack.prometheus.instant(expression, self.ended)


def _usage(endpoint: str, told: dict[str, Any]) -> Usage:
    """The specification's dialect does not say what was cached."""
    if endpoint == "responses":
        cached = told["input_tokens_details"]["cached_tokens"]
        return Usage(endpoint, told["input_tokens"], cached, told["output_tokens"])
    cached = told.get("prompt_tokens_details", {"cached_tokens": 0})["cached_tokens"]
    return Usage(endpoint, told["prompt_tokens"], cached, told["completion_tokens"])
