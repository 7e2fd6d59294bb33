"""What a stream promises: the same text as without one, fair turns, and an end for every case."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.daemon import MODEL, Daemon

_SUBJECTS = [
    "🍋 lemonade 👩‍👩‍👧 and 🏳️‍🌈",
    "日本語のテキスト、漢字とかな",
    "한국어 문장과 中文字符",
    "naïve café, Zalgo z̷̢a̴l̶g̵o, e\u0301 and a\u030a",
    "مرحبا بالعالم and שלום",
    "plain words, one after another",
    "def f(x):\n    return x ** 2",
    "½ ≠ ⅓ · ∑ᵢ xᵢ → ∞",
    "😀😃😄😁😆😅🤣😂",
    "नमस्ते दुनिया, สวัสดี",
]


_seen: Counter[str] = Counter()


def _body(n: int) -> dict[str, Any]:
    """A third greedy, a third at the default temperature, a third from all over the vocabulary."""
    body: dict[str, Any] = {
        "model": MODEL,
        "prompt": f"Repeat {n} times: {_SUBJECTS[n % len(_SUBJECTS)]}\n",
        "max_tokens": 16,
        "seed": n,
    }
    if n % 3 == 0:
        body["temperature"] = 0
    elif n % 3 == 1:
        body |= {"temperature": 2, "top_k": 0, "top_p": 1}
    return body


def _streamed(daemon: Daemon, body: dict[str, Any]) -> tuple[list[str], str]:
    events = list(daemon.events("/v1/completions", body))
    texts = [event["choices"][0]["text"] for event in events]
    return texts, events[-1]["choices"][0]["finish_reason"]


def _whole(daemon: Daemon, body: dict[str, Any]) -> tuple[str, str]:
    (choice,) = daemon.client.post("/v1/completions", json=body).json()["choices"]
    return choice["text"], choice["finish_reason"]


@pytest.mark.parametrize("n", range(100))
def test_a_stream_says_what_the_whole_answer_says(shared_daemon: Daemon, n: int) -> None:
    body = _body(n)
    whole, reason = _whole(shared_daemon, body)
    _seen["texts"] += 1
    pieces, stream_reason = _streamed(shared_daemon, body)
    assert "".join(pieces) == whole
    assert stream_reason == reason
    _seen["beyond ASCII"] += not whole.isascii()
    if len(whole) > 4:
        _seen["stops"] += 1
        # Now end it at a stop string that begins and ends in the middle of something.
        start = random.Random(n).randrange(1, len(whole) - 2)  # noqa: S311
        stop = whole[start : start + 5]
        cut = whole[: whole.index(stop)]
        assert _whole(shared_daemon, {**body, "stop": [stop, "\0never"]}) == (cut, "stop")
        pieces, stream_reason = _streamed(shared_daemon, {**body, "stop": [stop, "\0never"]})
        assert ("".join(pieces), stream_reason) == (cut, "stop")


def test_the_prompts_were_worth_their_number() -> None:
    """Run after them: most texts were cut by a stop string, and many are not plain English."""
    if _seen["texts"] == 100:
        assert _seen["stops"] >= 80
        assert _seen["beyond ASCII"] >= 20


def test_no_event_holds_half_a_character(shared_daemon: Daemon) -> None:
    body = {"model": MODEL, "prompt": "Smileys: 😀😃😄😁😆😅🤣😂🙂🙃😉😊😇🥰😍🤩😘"}
    pieces, _ = _streamed(shared_daemon, {**body, "temperature": 0, "max_tokens": 48})
    text = "".join(pieces)
    assert any(ord(character) > 0xFFFF for character in text), text
    assert "\N{REPLACEMENT CHARACTER}" not in text


def test_eight_streams_advance_together(shared_daemon: Daemon) -> None:
    together = threading.Barrier(8)
    order: list[int] = []

    def read(n: int) -> None:
        together.wait()
        body = {"model": MODEL, "prompt": f"Count to {n}: 1, 2,", "max_tokens": 32}
        for event in shared_daemon.events("/v1/completions", {**body, "ignore_eos": True}):
            if event["choices"][0]["text"]:
                order.append(n)

    with ThreadPoolExecutor(8) as readers:
        list(readers.map(read, range(8)))
    for n in range(8):
        before_first = order[: order.index(n)]
        assert max((before_first.count(m) for m in range(8)), default=0) < 20


def test_a_stream_ends_with_usage_when_it_is_asked_for(shared_daemon: Daemon) -> None:
    body = {"model": MODEL, "prompt": "One, two,", "max_tokens": 5, "ignore_eos": True}
    options = {"stream_options": {"include_usage": True}}
    *pieces, last = shared_daemon.events("/v1/completions", {**body, **options})
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert all(piece["usage"] is None for piece in pieces)


def test_a_stream_is_kept_alive_while_the_model_loads_and_reads(start_daemon: Any) -> None:
    daemon = start_daemon(
        LEMONADE_SERVER__KEEPALIVE_S="0.05", LEMONADE_SERVER__STATUS_HOLD_S="0.01"
    )
    body = {"model": MODEL, "prompt": "word " * 500, "max_tokens": 2, "stream": True}
    with daemon.client.stream("POST", "/v1/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    first_text = next(i for i, line in enumerate(lines) if line.startswith("data:"))
    assert lines[:first_text].count(": ping") >= 3
    assert lines[-1] == "data: [DONE]"
