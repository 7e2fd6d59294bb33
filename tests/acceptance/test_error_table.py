"""Every row of the error table (docs/api.md) in both dialects, against a real daemon.

Held elsewhere: draining in test_lifecycle.py, no room in time in test_residency.py, models that are
made for something else in test_encoders.py; what exactly is out of range in test_client_params.py
and test_openai_client.py. No route of OpenAI's names a device, a dtype or a `cache_dir`, and none
of the specification's is a chat.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.acceptance.calls import load
from tests.acceptance.openai_clients import KEY
from tests.daemon import MODEL, Daemon, eventually
from tests.gallery import BASE, BENT, CUT, HUGE, PAIR, SHORT, TWIN, Gallery

SPEC, OPENAI, ALIAS = "/api/v0/completions", "/v1/completions", "/api/v1/completions"
CHATS = ["/v1/chat/completions", "/api/v1/chat/completions", "/api/v0/chat/completions"]
DIALECTS = pytest.mark.parametrize("path", [SPEC, OPENAI])


class Row(NamedTuple):
    """`type` and `param` are OpenAI's alone; the specification's message names the parameter."""

    status: int
    type: str
    code: str
    param: str | None = None
    retry: bool = False


def invalid(param: str | None = None, code: str = "invalid_request_error") -> Row:
    return Row(400, "invalid_request_error", code, param)


def check(answer: httpx.Response, row: Row) -> str:
    """The message of an answer that is as its row says, in the dialect of its route."""
    assert answer.status_code == row.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == row.retry
    assert not row.retry or int(answer.headers["retry-after"]) >= 1
    body: dict[str, Any] = answer.json()
    if answer.request.url.path.startswith("/api/v0/") and "chat" not in answer.request.url.path:
        assert set(body) == {"status", "message", "code"}
        assert (body["status"], body["code"]) == ("error", row.code)
        assert (row.param or "") in body["message"]
    else:
        assert set(body) == {"error"}
        body = body["error"]
        assert set(body) == {"message", "type", "param", "code"}
        assert (body["type"], body["code"], body["param"]) == (row.type, row.code, row.param)
    message: str = body["message"]
    assert message
    return message


@pytest.fixture(scope="module")
def tight(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Room for one model, one request at a time and none that waits, one client with parameters,
    and short bodies."""
    settings = {
        "LEMONADE_CACHE_DIR": str(gallery.root),
        "LEMONADE_DEVICES__CPU__MAX_MODELS": "1",
        "LEMONADE_MAX_CLIENTS": "1",
        "LEMONADE_POOL__LOAD_COOLDOWN_S": "0",
        "LEMONADE_POOL__MIN_RESIDENCY_S": "0",
        "LEMONADE_SERVER__MAX_BODY_BYTES": "4000",
        "LEMONADE_WORKER__MAX_QUEUE": "0",
        "LEMONADE_WORKER__SEQUENCE_SLOTS": "1",
    }
    with Daemon.start(tmp_path_factory.mktemp("tight"), settings) as daemon:
        yield daemon


def ask(daemon: Daemon, path: str, **said: Any) -> httpx.Response:
    prompt: dict[str, Any] = {"prompt": "Hi"}
    if "chat" in path:
        prompt = {"messages": [{"role": "user", "content": "Hi"}]}
    return daemon.client.post(path, json={"model": MODEL, **prompt, **said})


@pytest.mark.parametrize("path", [SPEC, OPENAI, ALIAS, *CHATS])
def test_json_that_is_malformed(tight: Daemon, path: str) -> None:
    for content in ('{"model": "x",}', '{"model"', "", "[]", "\u0000"):
        answer = tight.client.post(path, content=content.encode())
        check(answer, invalid())


@pytest.mark.parametrize("path", [SPEC, OPENAI, ALIAS, *CHATS])
@pytest.mark.parametrize("stream", [False, True])
def test_a_parameter_that_is_unknown_or_out_of_range(
    tight: Daemon, path: str, stream: bool
) -> None:
    check(ask(tight, path, stream=stream, colour="green"), invalid("colour"))
    check(ask(tight, path, stream=stream, temperature=3), invalid("temperature"))
    check(ask(tight, path, stream=stream, top_k="many"), invalid("top_k"))


def test_a_prompt_that_is_longer_than_the_context(tight: Daemon) -> None:
    words = "word " * 100
    for path in (SPEC, OPENAI):
        answer = ask(tight, path, model=SHORT, prompt=words)
        message = check(answer, invalid("prompt", "context_length_exceeded"))
        assert "64" in message
    chat = [{"role": "user", "content": words}]
    for path in CHATS[::2]:
        answer = ask(tight, path, model=SHORT, messages=chat)
        check(answer, invalid("messages", "context_length_exceeded"))


def test_a_device_or_a_dtype_that_is_not_there(tight: Daemon) -> None:
    device = invalid("device", "device_unavailable")
    assert "cpu" in check(ask(tight, SPEC, device="npu"), device)
    dtype = invalid("dtype", "device_unavailable")
    assert "int4, int8" in check(ask(tight, SPEC, model=PAIR, dtype="fp16"), dtype)
    for path in (OPENAI, CHATS[0]):
        check(ask(tight, path, device="npu"), invalid("device"))
        check(ask(tight, path, dtype="fp16"), invalid("dtype"))


def test_a_chat_without_a_chat_template(tight: Daemon) -> None:
    for path in CHATS:
        for stream in (False, True):
            answer = ask(tight, path, model=BASE, stream=stream)
            check(answer, invalid("messages", "no_chat_template"))
    assert ask(tight, OPENAI, model=BASE, max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer another-key", f"Basic {KEY}", KEY, f"Bearer {KEY}x"],
)
def test_no_api_key_or_a_wrong_one(keyed: Daemon, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    row = Row(401, "authentication_error", "authentication_error")
    for path in (SPEC, OPENAI, ALIAS, *CHATS, "/api/v0/params", "/api/v0/unload"):
        for stream in (False, True):
            body = {"prompt": "Hi", "stream": stream}
            answer = keyed.client.post(path, json=body, headers=headers)
            message = check(answer, row)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY not in message
    for path in ("/api/v0/health", "/api/v0/stats", "/v1/models", "/metrics", "/schema"):
        assert keyed.client.get(path, headers=headers).status_code == 401
    for path in ("/livez", "/readyz"):
        assert keyed.client.get(path, headers=headers).status_code == 200


def test_what_is_not_allowed(tight: Daemon) -> None:
    row = Row(403, "permission_error", "permission_error")
    load(tight, TWIN)
    (worker,) = tight.workers()
    headers = {"Sec-Fetch-Site": "cross-site"}
    for path in ("/api/v0/unload", "/api/v0/load?model=twin", "/v1/models", "/api/v0/health"):
        check(tight.client.get(path, headers=headers), row)
    for path in (SPEC, OPENAI, ALIAS, *CHATS):
        check(tight.client.post(path, json={}, headers=headers), row)
    assert [process.pid for process in tight.workers()] == [worker.pid]
    for site in ("same-origin", "same-site", "none"):
        answer = tight.client.get("/api/v0/health", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 200
    outside = row._replace(param="cache_dir")
    check(ask(tight, SPEC, cache_dir="/etc"), outside)
    check(tight.client.get("/api/v0/models", params={"cache_dir": "/etc"}), outside)


@pytest.mark.parametrize("path", [SPEC, OPENAI, ALIAS, *CHATS])
def test_a_model_that_is_not_there(tight: Daemon, path: str) -> None:
    row = Row(404, "invalid_request_error", "model_not_found", "model")
    for stream in (False, True):
        assert "'nobody'" in check(ask(tight, path, model="nobody", stream=stream), row)
    check(tight.client.get("/v1/models/nobody"), row)
    check(tight.client.get("/api/v0/load", params={"model": "nobody"}), row)


@pytest.mark.parametrize("path", [SPEC, OPENAI, ALIAS, *CHATS, "/api/v0/params"])
def test_a_body_that_is_too_large(tight: Daemon, path: str) -> None:
    answer = tight.client.post(path, json={"prompt": "x" * 4000})
    check(answer, Row(413, "invalid_request_error", "request_too_large"))


def test_a_queue_that_is_full(tight: Daemon) -> None:
    row = Row(429, "rate_limit_error", "rate_limit_error", retry=True)
    story = {"model": MODEL, "prompt": "Once", "max_tokens": 1000, "ignore_eos": True}
    events = tight.events(OPENAI, story)
    next(events)
    for path in (SPEC, OPENAI, ALIAS, *CHATS):
        for stream in (False, True):
            check(ask(tight, path, stream=stream), row)
    check(tight.client.post("/api/v0/load", json={"model": MODEL}), row)
    events.close()
    eventually(lambda: not tight.model()["is_busy"])


def test_a_client_too_many(tight: Daemon) -> None:
    def keep(client: str) -> httpx.Response:
        headers = {"X-Client-Id": client}
        return tight.client.post("/api/v0/params", json={"top_k": 7}, headers=headers)

    row = Row(429, "rate_limit_error", "client_limit", retry=True)
    assert keep("first").status_code == 200
    check(keep("second"), row)
    assert keep("first").status_code == 200
    tight.client.delete("/api/v0/params", headers={"X-Client-Id": "first"})
    assert keep("second").status_code == 200
    tight.client.delete("/api/v0/params", headers={"X-Client-Id": "second"})


@DIALECTS
def test_a_load_that_fails(tight: Daemon, path: str) -> None:
    answer = ask(tight, path, model=CUT)
    assert CUT in check(answer, Row(500, "server_error", "model_load_error"))


@DIALECTS
def test_a_worker_that_is_lost(tight: Daemon, path: str) -> None:
    story = {"prompt": "Once upon a time", "ignore_eos": True}
    story["max_length" if path == SPEC else "max_tokens"] = 1000
    with ThreadPoolExecutor(1) as beside:
        answer = beside.submit(ask, tight, path, **story)
        eventually(lambda: tight.health()["model_loaded"] == MODEL)
        eventually(lambda: tight.model()["requests_running"] == 1)
        (worker,) = tight.workers()
        worker.kill()
        check(answer.result(), Row(500, "server_error", "worker_lost"))


def test_a_generation_that_fails(tight: Daemon) -> None:
    for path in (SPEC, OPENAI, CHATS[0]):
        answer = ask(tight, path, model=BENT)
        assert "not numbers" in check(answer, Row(500, "server_error", "generation_failed"))
    assert tight.model()["state"] == "resident"


@DIALECTS
def test_a_device_without_memory(tight: Daemon, path: str) -> None:
    tight.client.post("/api/v0/unload")
    load(tight, MODEL)
    (worker,) = tight.workers()
    memory = worker.memory_info().vms + 1_000_000
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (memory, memory))
    long = {"prompt": "a " * 1900}
    check(ask(tight, path, **long), Row(503, "overloaded", "no_capacity", retry=True))
    short = {"max_length" if path == SPEC else "max_tokens": 1}
    assert ask(tight, path, **short).status_code == 200
    tight.client.post("/api/v0/unload")


def test_nothing_that_could_be_evicted(tight: Daemon) -> None:
    row = Row(503, "overloaded", "slots_pinned_error", retry=True)
    assert tight.client.post("/api/v0/pin", json={"model": MODEL}).status_code == 200
    for path in (SPEC, OPENAI, ALIAS, *CHATS):
        for stream in (False, True):
            assert "pinned" in check(ask(tight, path, model=TWIN, stream=stream), row)
    check(tight.client.post("/api/v0/load", json={"model": TWIN}), row)
    assert tight.client.post("/api/v0/unpin").status_code == 200
    assert ask(tight, SPEC, model=TWIN, max_length=1).status_code == 200


@pytest.mark.parametrize("path", [SPEC, OPENAI, ALIAS, *CHATS])
def test_no_room_ever(tight: Daemon, path: str) -> None:
    row = Row(503, "overloaded", "no_capacity", retry=True)
    for stream in (False, True):
        assert "memory_budget" in check(ask(tight, path, model=HUGE, stream=stream), row)


def test_a_store_that_cannot_be_written_or_read(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    row = Row(503, "overloaded", "store_unavailable", retry=True)
    daemon = start_daemon(LEMONADE_STORE_TIMEOUT_S="1")

    def keep(top_k: int) -> httpx.Response:
        return daemon.client.post("/api/v0/params", json={"top_k": top_k})

    def kept() -> int:
        top_k: int = daemon.client.get("/api/v0/params").json()["params"]["top_k"]
        return top_k

    assert keep(7).status_code == 200
    with closing(
        sqlite3.connect(tmp_path / "state" / "lemonade.db", isolation_level=None)
    ) as another:
        another.execute("BEGIN IMMEDIATE")
        check(keep(8), row)
        check(daemon.client.delete("/api/v0/params"), row)
        assert kept() == 7
        another.execute("ROLLBACK")
        assert keep(9).status_code == 200
        assert kept() == 9
        another.execute("DROP TABLE lemonade_params")
        check(keep(10), row)
        newcomer = {"X-Client-Id": "newcomer"}
        for path in (SPEC, OPENAI, ALIAS):
            for stream in (False, True):
                body = {"model": MODEL, "prompt": "Hi", "stream": stream}
                check(daemon.client.post(path, json=body, headers=newcomer), row)
