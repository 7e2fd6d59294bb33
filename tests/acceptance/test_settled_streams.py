"""A streamed completion, as it is settled (docs/api.md): no long silence whatever it waits for, and
an honest status for as long as there is none.

Its shape is in test_specification.py. Workers are stopped with a signal where a test has to be sure
that they are not done yet.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Settings, load_settings
from tests.acceptance.calls import load, unload
from tests.daemon import MODEL, Daemon, eventually
from tests.gallery import CUT, PAIR, SHORT, TWIN, Gallery

PATH = "/api/v0/completions"
PING = ": ping"
QUEUED = ": queued, 0 ahead"
DONE = "data: [DONE]"
STORY = {"model": MODEL, "prompt": "Once upon a time", "max_length": 1000, "ignore_eos": True}


class Answer:
    """A stream, line by line."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.read()
        self._response = response
        self._lines = (line for line in response.iter_lines() if line)

    def line(self) -> str:
        return next(self._lines)

    def data(self) -> Any:
        """The first event that is not a comment."""
        while (line := self.line()).startswith(":"):
            pass
        return json.loads(line.removeprefix("data: "))

    def rest(self) -> list[str]:
        return [line for line in self._lines if not line.startswith(":")]

    def leave(self) -> None:
        self._response.close()


@contextmanager
def streaming(daemon: Daemon, path: str = PATH, **said: Any) -> Iterator[Answer]:
    body = {"prompt": "Hi", "model": MODEL, "stream": True, **said}
    with daemon.client.stream("POST", path, json=body) as response:
        yield Answer(response)


def doing(daemon: Daemon, model: str, **what: Any) -> Callable[[], bool]:
    """Whether /health says so of the model."""

    def so() -> bool:
        models = daemon.health()["all_models_loaded"]
        return any({"model_name": model, **what}.items() <= one.items() for one in models)

    return so


def worker(daemon: Daemon) -> psutil.Process:
    """The only one, as soon as there is one."""
    (process,) = eventually(daemon.workers)
    assert isinstance(process, psutil.Process)
    return process


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def patient(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """It holds a status for as long as it takes."""
    settings = {
        "LEMONADE_CACHE_DIR": str(gallery.root),
        "LEMONADE_SERVER__KEEPALIVE_S": "0.01",
        "LEMONADE_SERVER__STATUS_HOLD_S": "600",
    }
    with Daemon.start(tmp_path_factory.mktemp("patient"), settings) as daemon:
        yield daemon


def test_comments_say_who_is_ahead_while_a_request_waits_for_its_turn(daemon: Daemon) -> None:
    waits = doing(daemon, MODEL, requests_running=1, requests_waiting=1)
    with streaming(daemon, **STORY) as first, streaming(daemon, max_length=1) as second:
        first.data()
        eventually(waits)
        while second.line() != QUEUED:
            pass
        assert [second.line() for _ in range(5)] == [QUEUED] * 5
        assert waits()
        first.leave()
        assert second.rest()[-1] == DONE


def test_pings_come_while_a_request_waits_for_room(daemon: Daemon) -> None:
    waits = doing(daemon, TWIN, state="waiting")
    with streaming(daemon, **STORY, device="npu") as first:
        first.data()
        with streaming(daemon, model=TWIN, device="npu", max_length=1) as second:
            eventually(waits)
            assert [second.line() for _ in range(5)] == [PING] * 5
            assert waits()
            first.leave()
            assert second.rest()[-1] == DONE
    assert doing(daemon, TWIN, device="npu", state="resident")()


def test_pings_come_from_the_first_byte_on_while_a_model_loads(daemon: Daemon) -> None:
    with streaming(daemon, max_length=1) as answer:
        with stopped(worker(daemon)):
            assert [answer.line() for _ in range(5)] == [PING] * 5
            assert doing(daemon, MODEL, state="loading")()
        assert answer.rest()[-1] == DONE


def test_pings_come_while_a_prompt_is_read(daemon: Daemon) -> None:
    load(daemon, MODEL)
    with streaming(daemon, prompt="word " * 1000) as answer:
        eventually(doing(daemon, MODEL, requests_running=1))
        with stopped(worker(daemon)):
            assert [answer.line() for _ in range(5)] == [PING] * 5


def test_no_setting_makes_a_silence_longer_than_ten_seconds() -> None:
    assert Settings().server.keepalive_s <= 10
    with pytest.raises(SettingsError, match="keepalive_s"):
        load_settings(environment={"LEMONADE_SERVER__KEEPALIVE_S": "10.1"})


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"prompt": ""}, 400, "invalid_request_error"),
        ({"temperature": 3}, 400, "invalid_request_error"),
        ({"colour": "green"}, 400, "invalid_request_error"),
        ({"min_length": 2, "max_length": 1}, 400, "invalid_request_error"),
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"device": "igpu"}, 400, "device_unavailable"),
        ({"model": PAIR, "dtype": "bf16"}, 400, "device_unavailable"),
        ({"cache_dir": "/etc"}, 403, "permission_error"),
    ],
)
def test_what_is_known_at_once_is_an_honest_status(
    house: Daemon, said: dict[str, Any], status: int, code: str
) -> None:
    body = {"prompt": "Hi", "model": MODEL, "stream": True, **said}
    answer = house.client.post(PATH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_what_fails_later_is_an_error_event_and_the_end(house: Daemon, path: str) -> None:
    with streaming(house, path, model=CUT) as answer:
        assert answer.line() == PING
        (event,) = answer.rest()
    error = json.loads(event.removeprefix("data: "))
    error = error if path == PATH else error["error"]
    assert error["code"] == "model_load_error"
    assert set(error) == (
        {"status", "message", "code"} if path == PATH else {"message", "type", "param", "code"}
    )


def test_a_status_is_held_until_the_first_token(patient: Daemon) -> None:
    """For a second, where the settings say nothing else."""
    assert Settings().server.status_hold_s == 1
    unload(patient)
    with streaming(patient, max_length=1) as answer:
        assert answer.line().startswith('data: {"text":')
    for path in (PATH, "/v1/completions"):
        body = {"model": CUT, "prompt": "Hi", "stream": True}
        assert patient.client.post(path, json=body).status_code == 500
        body = {"model": SHORT, "prompt": "word " * 100, "stream": True}
        assert patient.client.post(path, json=body).status_code == 400
