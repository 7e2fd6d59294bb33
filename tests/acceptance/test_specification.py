"""The Lemonade specification's own routes, against a real daemon."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests import checkpoints
from tests.daemon import MODEL, Daemon, eventually, is_gone

StartDaemon = Callable[..., Daemon]
PROMPT = {"model": MODEL, "prompt": "the meaning of life is", "max_length": 8}


def test_a_completion_is_text_with_its_model_and_usage(shared_daemon: Daemon) -> None:
    answer = shared_daemon.client.post("/api/v0/completions", json=PROMPT).json()
    assert set(answer) == {"text", "model", "finish_reason", "usage"}
    assert answer["text"]
    assert answer["model"] == MODEL
    assert answer["usage"]["completion_tokens"] <= 8


def test_a_streamed_completion_ends_with_reason_usage_and_done(shared_daemon: Daemon) -> None:
    body = {**PROMPT, "do_sample": False}
    *pieces, last = shared_daemon.events("/api/v0/completions", body)
    assert all(set(piece) == {"text"} for piece in pieces)
    assert last["finish_reason"] in ("length", "stop")
    assert last["usage"]["completion_tokens"] == 8
    whole = shared_daemon.client.post("/api/v0/completions", json=body).json()
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    with shared_daemon.client.stream(
        "POST", "/api/v0/completions", json={**body, "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        response.read()


def test_length_counts_new_tokens_and_ends_at_the_context(
    start_daemon: StartDaemon, cache_dir: Path, tmp_path: Path
) -> None:
    source = checkpoints.original(cache_dir)
    short = checkpoints.config(source, context_length=64)
    checkpoints.link(source, tmp_path / "cache" / "variant", short)
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(tmp_path / "cache"))

    def complete(words: int, max_tokens: int) -> httpx.Response:
        body = {"model": "variant", "prompt": "word" + " word" * (words - 1), "ignore_eos": True}
        return daemon.client.post("/v1/completions", json={**body, "max_tokens": max_tokens})

    assert complete(50, 10).json()["usage"]["completion_tokens"] == 10
    full = complete(50, 2048).json()
    assert full["usage"]["total_tokens"] == 64
    assert full["choices"][0]["finish_reason"] == "length"
    assert complete(63, 5).json()["usage"]["completion_tokens"] == 1
    assert complete(64, 1).json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_load_and_unload_answer_both_verbs(start_daemon: StartDaemon, verb: str) -> None:
    daemon = start_daemon()

    def call(path: str, **values: str) -> dict[str, str]:
        given = {"params": values} if verb == "GET" else {"json": values}
        response = daemon.client.request(verb, f"/api/v0/{path}", **given)
        assert response.status_code == 200, response.text
        answer: dict[str, str] = response.json()
        return answer

    assert call("load", model=MODEL, device="cpu")["status"] == "success"
    assert call("load", model=MODEL)["message"].startswith("Model loaded successfully")
    (model,) = daemon.health()["all_models_loaded"]
    assert model["model_name"] == MODEL
    assert model["dtype"] == "int8"
    assert model["device"] == "cpu"
    assert model["memory_bytes"] > 50_000_000
    (worker,) = daemon.workers()
    assert model["pid"] == worker.pid
    assert call("unload") == {"status": "success", "message": "Model unloaded successfully"}
    assert is_gone(worker)
    assert call("unload", model="not-loaded")["status"] == "success"


def test_unload_without_a_body_unloads_everything(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.client.get("/api/v0/load", params={"model": MODEL})
    assert daemon.client.post("/api/v0/unload").json()["status"] == "success"
    assert daemon.workers() == []


def test_a_request_without_a_model_gets_the_last_used_or_an_error_that_says_how(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    body = {"prompt": "Hi", "max_length": 1}
    refused = daemon.client.post("/api/v0/completions", json=body)
    assert refused.status_code == 400
    assert "default_model" in refused.json()["message"]
    daemon.client.post("/api/v0/completions", json={**body, "model": MODEL})
    assert daemon.client.post("/api/v0/completions", json=body).json()["model"] == MODEL


def test_health_names_what_is_loaded_and_changes_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    assert daemon.health()["model_loaded"] is None
    daemon.client.get("/api/v0/load", params={"model": MODEL})
    first, second = daemon.health(), daemon.health()
    assert first["status"] == "ok"
    assert first["model_loaded"] == MODEL
    (cpu,) = first["devices"]
    assert (cpu["device"], cpu["models"]) == ("cpu", 1)
    assert first["max_models"] == {"cpu": cpu["max_models"]}
    (before,), (after,) = first["all_models_loaded"], second["all_models_loaded"]
    assert abs(before["last_use"] - after["last_use"]) < 0.1
    assert not after["is_busy"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"prompt": "x",}', 400, "invalid_request_error"),
        ("{}", 400, "invalid_request_error"),
        ("", 400, "invalid_request_error"),
        ("[]", 400, "invalid_request_error"),
        ('{"prompt": "x", "model": "nothing"}', 404, "model_not_found"),
        ('{"prompt": "x", "model": "../../etc"}', 400, "invalid_request_error"),
        ('{"prompt": "x", "model": "' + MODEL + '", "device": "npu"}', 400, "device_unavailable"),
        ('{"prompt": "x", "model": "' + MODEL + '", "dtype": "fp16"}', 400, "device_unavailable"),
        ('{"prompt": "x", "model": "' + MODEL + '", "cache_dir": "/etc"}', 403, "permission_error"),
        ('{"prompt": "x", "max_length": 0}', 400, "invalid_request_error"),
        ('{"prompt": "x", "tempreature": 1}', 400, "invalid_request_error"),
        ('{"prompt": 5}', 400, "invalid_request_error"),
    ],
)
def test_errors_have_an_honest_status_and_the_specification_s_shape(
    shared_daemon: Daemon, body: str, status: int, code: str
) -> None:
    answer = shared_daemon.client.post("/api/v0/completions", content=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"status", "message", "code"}
    assert answer.json()["status"] == "error"
    assert answer.json()["code"] == code


@pytest.mark.parametrize("verb", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/api/v0/load", "/api/v0/unload", "/v1/completions"])
def test_a_web_page_of_another_site_cannot_do_anything(
    shared_daemon: Daemon, verb: str, path: str
) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    answer = shared_daemon.client.request(verb, path, headers=headers)
    assert answer.status_code == 403
    assert "permission_error" in answer.text


def test_cache_dir_may_be_inside_the_allowed_roots(
    start_daemon: StartDaemon, cache_dir: Path, tmp_path: Path
) -> None:
    empty, outside = tmp_path / "empty", tmp_path / "outside"
    empty.mkdir()
    outside.mkdir()
    (empty / "way-out").symlink_to(outside)
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(empty), LEMONADE_CACHE_ROOTS=str(cache_dir))

    def load(where: Path) -> int:
        body = {"model": MODEL, "cache_dir": str(where)}
        return daemon.client.post("/api/v0/load", json=body).status_code

    assert load(cache_dir) == 200
    assert load(empty) == 404
    assert load(empty / "..") == 403
    assert load(empty / "way-out") == 403


def test_openai_s_chat_is_there_too_in_openai_s_shape(shared_daemon: Daemon) -> None:
    refused = shared_daemon.client.post("/api/v0/chat/completions", json={"messages": []})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages"


def test_unknown_routes_and_verbs_are_errors_in_the_dialect(shared_daemon: Daemon) -> None:
    client = shared_daemon.client
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/v1/completions").json()["error"]["code"] == "method_not_allowed"
    assert client.delete("/api/v0/health").json()["status"] == "error"


def test_a_directory_as_the_model_builder_makes_it_is_served(
    start_daemon: StartDaemon, cache_dir: Path, tmp_path: Path
) -> None:
    """One end-of-sequence id, not a list; the template in a file of its own; no provenance."""
    source = checkpoints.original(cache_dir)
    (eos_id, *_) = json.loads((source / checkpoints.CONFIG).read_bytes())["model"]["eos_token_id"]
    tokenizer = json.loads((source / "tokenizer_config.json").read_bytes())
    replaced = {
        **checkpoints.config(source, eos_token_id=eos_id),
        "chat_template.jinja": tokenizer.pop("chat_template").encode(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "provenance.json": None,
    }
    checkpoints.link(source, tmp_path / "cache" / "variant", replaced)
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(tmp_path / "cache"))
    question = {"role": "user", "content": "In which city is the Eiffel Tower?"}
    chat = {"model": "variant", "messages": [question], "temperature": 0, "max_tokens": 32}
    answer = daemon.client.post("/v1/chat/completions", json=chat).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert daemon.model()["dtype"] == "int8"


def test_more_connections_than_a_backlog_are_served(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with ExitStack() as held:
        for _ in range(200):
            idle = held.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(daemon.socket))
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: daemon\r\n\r\n")
            assert b"200 OK" in idle.recv(4096)
        assert daemon.client.get("/livez", timeout=5).status_code == 200


def test_every_request_has_an_id_and_one_line_with_its_figures(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    prompt = "zebra crossing"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
    for stream in (False, True):
        name = f"mine-{stream}"
        answer = daemon.client.post(
            "/v1/chat/completions",
            json={**chat, "stream": stream, "ignore_eos": True},
            headers={"X-Request-Id": name},
        )
        assert answer.headers["x-request-id"] == name
        (line,) = eventually(lambda: daemon.logged("request_finished", request_id=name))  # noqa: B023
        assert line["completion_tokens"] == 4
        assert line["time_to_first_token"] > 0
        assert line["outcome"] == "ok"
    bad = daemon.client.post(
        "/v1/completions",
        json={"prompt": prompt, "model": MODEL, "nonsense": prompt},
        headers={"X-Request-Id": "bad id with spaces\u00ff".encode("latin-1")},
    )
    assert bad.headers["x-request-id"].startswith("req-")
    daemon.client.post("/v1/completions", content=f'{{"prompt": "{prompt}')
    (worker,) = daemon.workers()
    events = daemon.events("/v1/completions", {"model": MODEL, "prompt": prompt})
    next(events)
    worker.kill()
    list(events)
    eventually(lambda: len(daemon.logged("request_finished")) >= 5)
    assert prompt not in daemon.log_text()
