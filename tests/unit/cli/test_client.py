"""Asking a daemon, with its answers scripted."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lemonade_serve.cli.client import Figures, Piece, ask
from lemonade_serve.errors import LemonadeError, WorkerLost

Respond = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Callable[[Respond], None]:
    """Whatever is asked over HTTP is answered so."""

    def answer(respond: Respond) -> None:
        client = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(respond))
        monkeypatch.setattr(httpx, "AsyncClient", client)

    return answer


def answers(path: str = "/v1/completions") -> list[Piece]:
    async def collect() -> list[Piece]:
        return [piece async for piece in ask("http://daemon", path, {"model": "small"})]

    return asyncio.run(collect())


def stream(*events: dict[str, Any], end: str = "data: [DONE]\n\n") -> str:
    return ": ping\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end


def test_a_stream_is_pieces_of_text_and_the_usage_at_the_end(
    daemon: Callable[[Respond], None],
) -> None:
    asked: list[dict[str, Any]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(
            200,
            text=stream(
                {"choices": [{"text": "so"}], "usage": None},
                {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"delta": {"content": " on"}}]},
                {"choices": [{"delta": {}}]},
                {"choices": [], "usage": {"completion_tokens": 2}},
            ),
        )

    daemon(respond)
    pieces = answers()
    assert "".join(piece.text for piece in pieces) == "so on"
    assert pieces[-1].completion_tokens == 2
    assert asked == [{"model": "small", "stream": True, "stream_options": {"include_usage": True}}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"error": {"message": "there is no model"}}', "there is no model"),
        ("not json", "not json"),
        ('{"detail": 1}', '{"detail": 1}'),
        ("[]", r"\[\]"),
        ("", "no reason"),
    ],
)
def test_a_refusal_is_an_error_in_the_daemons_words(
    daemon: Callable[[Respond], None], body: str, says: str
) -> None:
    daemon(lambda request: httpx.Response(404, text=body))
    with pytest.raises(LemonadeError, match=says):
        answers()


def test_an_error_in_the_stream_is_raised(daemon: Callable[[Respond], None]) -> None:
    broken = stream({"choices": [{"text": "so"}]}, {"error": {"message": "it died"}}, end="")
    daemon(lambda request: httpx.Response(200, text=broken))
    with pytest.raises(WorkerLost, match="it died"):
        answers()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ConnectError("refused"), "no daemon answers at http://daemon"),
        (httpx.ReadTimeout("silence"), "did not finish"),
        (httpx.RemoteProtocolError("cut"), "did not finish"),
    ],
)
def test_a_daemon_that_is_not_there_is_said_to_be_so(
    daemon: Callable[[Respond], None], error: Exception, says: str
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        raise error

    daemon(respond)
    with pytest.raises(LemonadeError, match=says):
        answers()


class TestFigures:
    def test_nothing_said_has_no_figures(self) -> None:
        figures = Figures()
        figures.saw(Piece())
        assert figures.line() == "no text"

    def test_tokens_and_times_are_told(self) -> None:
        figures = Figures()
        for piece in (Piece(text="so"), Piece(text=" on"), Piece(completion_tokens=2)):
            figures.saw(piece)
        assert figures.line().startswith("time to first token 0.0")
        assert figures.line().endswith("tokens/s, 2 tokens")
