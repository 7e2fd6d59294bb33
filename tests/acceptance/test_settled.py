"""How the specification is settled (docs/api.md), against a real daemon: what is loaded, from
where, in what and on what.

The other rows are held by test_specification.py (both verbs, pages of other sites, `cache_dir` of a
load, no model at all, lengths up to the context, the shape of a completion and of its errors),
test_lifecycle.py (what an unload does to running requests), test_settled_streams.py,
test_reports.py (models, health, stats), test_client_params.py, test_error_table.py and
test_curl_lines.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.calls import complete, load, resident, unload
from tests.daemon import MODEL, Daemon, is_gone
from tests.gallery import CUT, GUEST, PAIR, TWIN, Gallery

TOLD = (
    "<|im_start|>user\nIn which city is the Eiffel Tower? Answer with the name of the city and "
    "nothing else, please.<|im_end|>\n<|im_start|>assistant\n"
)
"""A greedy answer to it has a dozen tokens, then an end of sequence."""


@pytest.mark.parametrize(
    ("verb", "route"),
    [("POST", "completions"), ("POST", "load"), ("POST", "params"), ("GET", "models")],
)
def test_a_trailing_comma_is_no_json_and_the_message_says_so(
    house: Daemon, verb: str, route: str
) -> None:
    headers = {"Content-Type": "application/json"}
    field = "cache_dir" if route == "models" else "model"
    body = f'{{\n  "{field}": "{MODEL}",\n}}'
    answer = house.client.request(verb, f"/api/v0/{route}", headers=headers, content=body)
    assert answer.status_code == 400
    assert "trailing comma" in answer.json()["message"]


CACHE_DIR_ROUTES = [
    ("POST", "completions", "json"),
    ("POST", "load", "json"),
    ("GET", "load", "params"),
    ("POST", "models", "json"),
    ("GET", "models", "json"),
    ("GET", "models", "params"),
]


@pytest.mark.parametrize("where", ["outside", "elsewhere/..", "elsewhere/way-out", "elsewhere-not"])
def test_a_cache_dir_out_of_the_roots_is_refused_everywhere(
    house: Daemon, gallery: Gallery, where: str
) -> None:
    directory = gallery.root.parent / where
    for verb, route, how in CACHE_DIR_ROUTES:
        said = {"cache_dir": str(directory)}
        said |= {"model": "secret"} if route != "models" else {}
        said |= {"prompt": "Hi"} if route == "completions" else {}
        answer = house.client.request(verb, f"/api/v0/{route}", **{how: said})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_error"), route


def test_a_request_without_a_model_gets_the_one_used_last_else_the_default(
    daemon: Daemon,
) -> None:
    assert complete(daemon).json()["model"] == TWIN
    for model in (MODEL, TWIN, MODEL):
        assert complete(daemon, model=model).json()["model"] == model
        assert complete(daemon).json()["model"] == model
    *_, last = daemon.events("/api/v0/completions", {"prompt": "Hi", "max_length": 1})
    assert last["model"] == MODEL


def test_a_completion_loads_where_and_what_it_says(daemon: Daemon, gallery: Gallery) -> None:
    said = {"model": PAIR, "device": "cpu", "dtype": "int8"}
    assert complete(daemon, **said).status_code == 200
    assert resident(daemon) == [(PAIR, "cpu", "int8")]
    assert complete(daemon, model=GUEST).status_code == 404
    assert complete(daemon, model=GUEST, cache_dir=str(gallery.elsewhere)).status_code == 200
    guest, _ = daemon.health()["all_models_loaded"]
    assert guest["checkpoint"] == str(gallery.elsewhere / GUEST)
    assert guest["device"] == "npu"


def test_a_hybrid_goes_where_there_is_room_and_health_says_where(daemon: Daemon) -> None:
    assert load(daemon, MODEL, device="hybrid").endswith("on npu")
    assert complete(daemon, model=TWIN, device="hybrid").status_code == 200
    assert resident(daemon) == [(TWIN, "cpu", "int8"), (MODEL, "npu", "int8")]
    devices = {room["device"]: room for room in daemon.health()["devices"]}
    assert [devices[name]["models"] for name in ("npu", "cpu")] == [1, 1]
    unload(daemon, model=MODEL)
    # It stays where it is, although the better device has room now.
    assert load(daemon, TWIN).endswith("on cpu")
    assert load(daemon, PAIR).endswith("on npu")


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_an_exact_device_is_that_or_an_error_that_says_what_there_is(
    house: Daemon, verb: str
) -> None:
    for device in ("npu", "cpu"):
        assert load(house, MODEL, device=device).endswith(f"on {device}")
        assert resident(house)[0] == (MODEL, device, "int8")
    said = {"model": MODEL, "device": "igpu"}
    how: dict[str, Any] = {"json": said} if verb == "POST" else {"params": said}
    answer = house.client.request(verb, "/api/v0/load", **how)
    assert (answer.status_code, answer.json()["code"]) == (400, "device_unavailable")
    assert "hybrid, npu, cpu" in answer.json()["message"]
    assert complete(house, **said).json()["message"] == answer.json()["message"]
    assert house.client.post("/api/v0/unload", json={"device": "igpu"}).status_code == 400


def test_a_dtype_left_out_is_whatever_there_is_and_int4_before_others(daemon: Daemon) -> None:
    assert load(daemon, MODEL).startswith(
        "Model loaded successfully: SmolLM2-135M-Instruct in int8"
    )
    assert "in int4" in load(daemon, PAIR, device="cpu", dtype="auto")
    assert resident(daemon) == [(PAIR, "cpu", "int4"), (MODEL, "npu", "int8")]
    assert "in int8" in load(daemon, PAIR, device="cpu", dtype="int8")
    assert resident(daemon)[0] == (PAIR, "cpu", "int8")


def test_a_dtype_asked_for_and_absent_is_an_error_that_lists_what_exists(house: Daemon) -> None:
    for model, has in ((PAIR, "int4, int8"), (MODEL, "int8")):
        dtype = "bf16" if model == PAIR else "int4"
        answer = complete(house, model=model, dtype=dtype)
        assert (answer.status_code, answer.json()["code"]) == (400, "device_unavailable")
        assert dtype in answer.json()["message"]
        assert answer.json()["message"].endswith(f"has: {has}")


def test_an_unload_takes_what_it_names_and_no_more(daemon: Daemon) -> None:
    for model, device in ((MODEL, "npu"), (MODEL, "cpu"), (TWIN, "cpu")):
        load(daemon, model, device=device)
    unload(daemon, model="nobody-ever-loaded-this")
    assert len(resident(daemon)) == 3
    unload(daemon, model=MODEL, device="cpu")
    assert resident(daemon) == [(TWIN, "cpu", "int8"), (MODEL, "npu", "int8")]
    (npu,) = (m["pid"] for m in daemon.health()["all_models_loaded"] if m["device"] == "npu")
    (worker,) = (worker for worker in daemon.workers() if worker.pid == npu)
    answer = daemon.client.get("/api/v0/unload", params={"device": "npu"})
    assert answer.json() == {"status": "success", "message": "Model unloaded successfully"}
    assert is_gone(worker)
    assert resident(daemon) == [(TWIN, "cpu", "int8")]


def test_min_and_max_length_count_new_tokens(house: Daemon) -> None:
    def tokens(**said: Any) -> tuple[int, int]:
        answer = complete(house, model=MODEL, prompt=TOLD, temperature=0, **said).json()
        return answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]

    prompt_tokens, plain = tokens(max_length=24)
    assert plain < 20 < prompt_tokens
    assert tokens(max_length=3) == (prompt_tokens, 3)
    assert tokens(max_length=24, min_length=22) in [(prompt_tokens, n) for n in (22, 23, 24)]


def test_a_load_that_fails_leaves_the_others_alone(house: Daemon) -> None:
    for model in (MODEL, TWIN):
        load(house, model, device="cpu")
    before = {worker.pid for worker in house.workers()}
    answer = complete(house, model=CUT, device="cpu")
    assert (answer.status_code, answer.json()["code"]) == (500, "model_load_error")
    for model in (MODEL, TWIN):
        assert complete(house, model=model, device="cpu").status_code == 200
    assert {worker.pid for worker in house.workers()} == before


@pytest.mark.parametrize(
    ("verb", "route"),
    [
        *((verb, route) for verb in ("GET", "POST") for route in ("load", "unload", "models")),
        *(("POST", route) for route in ("completions", "params", "pin", "unpin")),
        *(("GET", route) for route in ("health", "stats", "params")),
        ("DELETE", "params"),
    ],
)
def test_no_route_ignores_a_parameter_that_it_does_not_know(
    house: Daemon, verb: str, route: str
) -> None:
    required = {"completions": {"prompt": "Hi"}, "load": {"model": MODEL}, "pin": {"model": MODEL}}
    said = required.get(route, {})
    stranger = {"colour": "green"}
    tries = (
        [{"json": said, "params": stranger}] if verb == "POST" else [{"params": said | stranger}]
    )
    tries += [{"json": said | stranger}] if verb == "POST" or route == "models" else []
    for how in tries:
        answer = house.client.request(verb, f"/api/v0/{route}", **how)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request_error"), how
        assert "colour" in answer.json()["message"]
