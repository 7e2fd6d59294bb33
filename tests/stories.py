"""Streams of a known length, and models that are kept busy with them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.daemon import Daemon, eventually

STORY = {
    "prompt": "Once upon a time",
    "ignore_eos": True,
    "temperature": 0,  # plain words: every token is an event of its own
    "stream_options": {"include_usage": True},
}


def story(daemon: Daemon, model: str, tokens: int) -> Iterator[dict[str, Any]]:
    """The events of a stream of exactly so many tokens, which has begun."""
    events = daemon.events("/v1/completions", {**STORY, "model": model, "max_tokens": tokens})
    first = next(events)
    return itertools.chain([first], events)


def assert_whole(events: Iterator[dict[str, Any]], tokens: int) -> None:
    """The stream comes to the end that it was promised."""
    *pieces, last, usage = events
    assert not [event for event in (*pieces, last, usage) if "error" in event]
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == tokens


@contextmanager
def kept_busy(daemon: Daemon, model: str, *, clients: int = 1, tokens: int = 48) -> Iterator[None]:
    """Someone streams from the model all the while: each client begins its next stream when this
    one is half way. In the end all of them have come to theirs, and one more for each client."""
    enough = threading.Event()

    def client() -> None:
        running = story(daemon, model, tokens)
        while not enough.is_set():
            for _ in range(tokens // 2):
                next(running)
            following = story(daemon, model, tokens)
            assert_whole(running, tokens)
            running = following
        assert_whole(running, tokens)
        assert_whole(story(daemon, model, tokens), tokens)

    with ThreadPoolExecutor(clients) as threads:
        streaming = [threads.submit(client) for _ in range(clients)]
        try:
            eventually(lambda: _running(daemon, model) >= clients)
            yield
        finally:
            enough.set()
        for each in streaming:
            each.result()


def _running(daemon: Daemon, model: str) -> int:
    models = daemon.health()["all_models_loaded"]
    return sum(m["requests_running"] for m in models if m["model_name"] == model)
