"""Asking a daemon whose answers are scripted, over real connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from lemonade_serve.cli import client
from lemonade_serve.cli.client import Api, Figures, Piece, read
from lemonade_serve.errors import LemonadeError, WorkerLost
from tests.unit.cli.scripted import ScriptedDaemon, scripted


def stream(*events: dict[str, Any], end: str = "data: [DONE]\n\n") -> str:
    return ": ping\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end


def pieces(api: Api, path: str = "/v1/completions") -> list[Piece]:
    async def collect() -> list[Piece]:
        return [piece async for piece in api.ask(path, {"model": "small"})]

    return asyncio.run(collect())


SO_ON = stream(
    {"choices": [{"text": "so"}], "usage": None},
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": " on"}}]},
    {"choices": [{"delta": {}}]},
    {"choices": [], "usage": {"completion_tokens": 2}},
)


class TestAStream:
    def test_it_is_pieces_of_text_and_the_usage_at_the_end(self, daemon: ScriptedDaemon) -> None:
        daemon.body = SO_ON
        got = pieces(Api(daemon.url))
        assert "".join(piece.text for piece in got) == "so on"
        assert got[-1].completion_tokens == 2
        asked = {"model": "small", "stream": True, "stream_options": {"include_usage": True}}
        assert daemon.only().what() == ("POST", "/v1/completions", asked)

    def test_an_error_in_it_is_raised(self, daemon: ScriptedDaemon) -> None:
        daemon.body = stream(
            {"choices": [{"text": "so"}]}, {"error": {"message": "it died"}}, end=""
        )
        with pytest.raises(WorkerLost, match="it died"):
            pieces(Api(daemon.url))

    def test_a_refusal_is_raised_in_the_daemons_words(self, daemon: ScriptedDaemon) -> None:
        daemon.status, daemon.body = 404, {"error": {"message": "there is no model"}}
        with pytest.raises(LemonadeError, match=r"^there is no model$"):
            pieces(Api(daemon.url))

    def test_one_that_is_cut_is_said_to_be_so(self, daemon: ScriptedDaemon) -> None:
        daemon.body, daemon.cut = SO_ON, True
        with pytest.raises(LemonadeError, match=f"the daemon at {daemon.url} did not finish"):
            pieces(Api(daemon.url))


class TestAnAnswer:
    def test_a_question_goes_as_it_is_and_its_answer_comes_back(
        self, daemon: ScriptedDaemon
    ) -> None:
        daemon.body = {"status": "success"}
        assert Api(daemon.url).post("/api/v0/params", {"seed": None}) == {"status": "success"}
        assert daemon.only().what() == ("POST", "/api/v0/params", {"seed": None})

    @pytest.mark.parametrize("verb", ["get", "delete"])
    def test_a_query_leaves_out_what_is_none(self, daemon: ScriptedDaemon, verb: str) -> None:
        getattr(Api(daemon.url), verb)("/x", model="a/b c", device=None)
        assert daemon.only().what() == (verb.upper(), "/x", {"model": "a/b c"})

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ({"status": "error", "message": "no room", "code": "no_capacity"}, "no room"),
            ({"error": {"message": "no such model"}}, "no such model"),
            ("not json", "not json"),
            ('{"detail": 1}', '{"detail": 1}'),
            ("[]", "[]"),
            ("<html>\n  bad gateway\n</html>", "<html> bad gateway </html>"),
            ("", "the daemon gave no reason (status 502)"),
        ],
    )
    def test_a_refusal_is_one_line_in_the_daemons_words(
        self, daemon: ScriptedDaemon, body: object, says: str
    ) -> None:
        daemon.status, daemon.body = 502, body
        with pytest.raises(LemonadeError) as raised:
            Api(daemon.url).get("/x")
        assert raised.value.message == says

    def test_a_refusal_for_now_says_when_to_come_back(self, daemon: ScriptedDaemon) -> None:
        daemon.status, daemon.body, daemon.headers = 503, {"message": "full"}, {"Retry-After": "5"}
        with pytest.raises(LemonadeError, match=r"^full \(try again in 5 s\)$"):
            Api(daemon.url).get("/x")

    def test_a_missing_key_says_how_to_give_one(self, daemon: ScriptedDaemon) -> None:
        daemon.status, daemon.body = 401, {"message": "Send an API key"}
        with pytest.raises(LemonadeError, match=r"Send an API key .*--api-key"):
            Api(daemon.url).get("/x")

    def test_an_older_daemon_is_asked_for_its_version(self, daemon: ScriptedDaemon) -> None:
        daemon.status, daemon.body = 404, {"error": {"message": "Not Found", "code": "not_found"}}
        with pytest.raises(LemonadeError, match=r"it has no /api/v0/pin: is it lemonade-serve of"):
            Api(daemon.url).post("/api/v0/pin", {})

    @pytest.mark.parametrize("body", ["<html></html>", "[]", ""])
    def test_another_server_is_not_taken_for_a_daemon(
        self, daemon: ScriptedDaemon, body: str
    ) -> None:
        daemon.body = body
        with pytest.raises(LemonadeError, match="is not lemonade-serve"):
            Api(daemon.url).get("/x")

    def test_an_answer_of_another_shape_is_named(self) -> None:
        with pytest.raises(LemonadeError, match=r"does not understand .*\$\.text"):
            read({"text": 5}, Piece)


class TestWhoAsks:
    def test_nobody_in_particular(self, daemon: ScriptedDaemon) -> None:
        Api(daemon.url).get("/x")
        assert not {"authorization", "x-client-id"} & set(daemon.only().headers)

    def test_a_key_and_a_name_go_with_every_question(self, daemon: ScriptedDaemon) -> None:
        api = Api(daemon.url, key="s3cret", client="alice:laptop")
        api.get("/x")
        daemon.body = SO_ON
        pieces(api)
        for asked in daemon.asked:
            assert asked.headers["authorization"] == "Bearer s3cret"
            assert asked.headers["x-client-id"] == "alice:laptop"

    @pytest.mark.parametrize("key", ["two words", "line\n", "clé"])
    def test_a_key_that_cannot_be_sent_is_not_shown(self, key: str) -> None:
        with pytest.raises(LemonadeError, match="visible ASCII") as raised:
            Api("http://daemon", key=key)
        assert key not in raised.value.message

    @pytest.mark.parametrize("name", ["a b", "é", "x" * 65])
    def test_a_name_that_no_daemon_takes_is_refused(self, name: str) -> None:
        with pytest.raises(LemonadeError, match="a client's name is"):
            Api("http://daemon", client=name)


class TestWhere:
    @pytest.mark.parametrize("prefix", ["unix:", "unix://"])
    def test_a_socket_will_do(self, tmp_path: Path, prefix: str) -> None:
        path = tmp_path / "daemon.sock"
        with scripted(path) as daemon:
            daemon.body = SO_ON
            api = Api(f"{prefix}{path}")
            assert "".join(piece.text for piece in pieces(api)) == "so on"
            daemon.body = {"status": "ok"}
            assert api.get("/api/v0/health") == {"status": "ok"}

    def test_a_path_before_the_routes_stays(self, daemon: ScriptedDaemon) -> None:
        Api(f"{daemon.url}/behind/").get("/api/v0/health")
        assert daemon.only().path == "/behind/api/v0/health"

    @pytest.mark.parametrize(
        "url", ["", "localhost:1234", "ftp://daemon", "http://", "unix:", "http://[]", "http://x:y"]
    )
    def test_what_is_no_address_is_said_to_be_so(self, url: str) -> None:
        with pytest.raises(LemonadeError, match="--url must be"):
            Api(url)

    def test_nobody_there_says_what_to_do(self, tmp_path: Path) -> None:
        with socket.socket() as bound:  # and not listening
            bound.bind(("127.0.0.1", 0))
            tcp = f"http://127.0.0.1:{bound.getsockname()[1]}"
            for url in (tcp, f"unix:{tmp_path}/daemon.sock"):
                with pytest.raises(LemonadeError, match=f"no daemon answers at {url}: start one"):
                    Api(url).get("/x")
                with pytest.raises(LemonadeError, match=f"no daemon answers at {url}: start one"):
                    pieces(Api(url))

    def test_silence_has_an_end(
        self, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.silent = threading.Event()
        with pytest.raises(LemonadeError, match="did not finish: ReadTimeout"):
            Api(daemon.url).post("/x", {}, timeout_s=0.01)
        monkeypatch.setattr(client, "_SILENCE_TIMEOUT_S", 0.01)
        with pytest.raises(LemonadeError, match="did not finish: ReadTimeout"):
            pieces(Api(daemon.url))

    def test_a_proxy_is_not_asked_for_what_is_on_this_machine(
        self, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert Api(daemon.url).get("/x") == {}


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
