"""Models that come, go and have other names, while a daemon runs and after it was started anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai.types import Model

from tests import checkpoints, tiny
from tests.daemon import Daemon, eventually
from tests.graphs import Plan
from tests.hub import Fault, Hub, running
from tests.strict import MODEL_EXTRAS, strictly

NAME = "org/tiny"


@pytest.fixture(scope="module")
def checkpoint(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one that answers."""
    directory = tmp_path_factory.mktemp("made") / "tiny"
    return tiny.put_with_tokenizer(
        directory, Plan(vocabulary=49152), checkpoints.original(cache_dir)
    )


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with running() as hub:
        hub.add(NAME, {file.name: file.read_bytes() for file in checkpoint.iterdir()})
        yield hub


class House:
    """A daemon of the test's own, that can be started again, and commands beside it."""

    def __init__(
        self, start: Callable[..., Daemon], directory: Path, settings: dict[str, str]
    ) -> None:
        self._start = start
        self.cache = directory / "cache"
        self.hub_cache = directory / "home" / "hub"
        self.settings = {
            "LEMONADE_CACHE_DIR": str(self.cache),
            "LEMONADE_HUB__MIN_FREE_BYTES": "0",
            "LEMONADE_STATE_DIR": str(directory / "state"),
            "HF_HOME": str(directory / "home"),
            **settings,
        }
        self.daemon = start(**self.settings)

    def restart(self) -> None:
        assert self.daemon.terminate() == 0
        self.daemon = self._start(**self.settings)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        url = {"LEMONADE_URL": f"unix:{self.daemon.socket}"}
        return subprocess.run(
            [sys.executable, "-m", "lemonade_serve", *arguments],
            env={**os.environ, **self.settings, **url},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def say(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def put(self, checkpoint: Path, name: str) -> Path:
        """By hand."""
        path = self.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(checkpoint, path)
        return path

    def names(self) -> list[str]:
        return [model["id"] for model in self.daemon.client.get("/v1/models").json()["data"]]

    def left(self) -> list[Path]:
        return [path for path in self.hub_cache.rglob("*") if not path.is_dir()]


@pytest.fixture
def house(start_daemon: Callable[..., Daemon], hub: Hub, tmp_path: Path) -> House:
    return House(start_daemon, tmp_path, {"HF_ENDPOINT": hub.url})


def pull(daemon: Daemon, **body: Any) -> httpx.Response:
    return daemon.client.post("/api/v0/pull", json={"model": NAME, **body})


def test_a_model_is_pulled_and_serves(house: House, hub: Hub) -> None:
    answer = pull(house.daemon)
    assert answer.status_code == 200, answer.text
    pulled = answer.json()
    assert (pulled["status"], pulled["model"], pulled["new"]) == ("success", NAME, True)
    assert house.daemon.complete(NAME).status_code == 200
    assert pull(house.daemon).json()["new"] is False
    assert hub.repositories[NAME].commit in house.say("show", NAME)


def test_a_pull_streams_how_far_it_is(house: House) -> None:
    events = list(house.daemon.events("/api/v0/pull", {"model": NAME}))
    assert events[-1]["status"] == "success"
    assert {event["status"] for event in events[:-1]} <= {"pulling"}


def test_a_pull_that_fails_later_says_so_in_the_stream(house: House, hub: Hub) -> None:
    (data,) = (path for path in hub.repositories[NAME].files if path.endswith(".data"))
    hub.lie[data] = bytes(len(hub.repositories[NAME].files[data]))
    released = threading.Event()
    hub.faults = [Fault(cut_after=10, until=released)]
    stream = house.daemon.events("/api/v0/pull", {"model": NAME})
    first = next(stream)
    released.set()
    *_, last = [first, *stream]
    assert (last["status"], last["code"]) == ("error", "job_failed")
    assert house.names() == []


def test_what_the_hub_has_not_is_404_and_an_unreachable_one_502(
    start_daemon: Callable[..., Daemon], house: House, tmp_path: Path
) -> None:
    missing = pull(house.daemon, model="org/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")
    assert pull(house.daemon, model="a/b/c").status_code == 400
    (tmp_path / "other").mkdir()
    lonely = start_daemon(
        tmp_path / "other", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "none")
    )
    streamed = pull(lonely, stream=True)
    assert streamed.status_code in (200, 502)  # it is tried again for a while
    assert "hub_error" in streamed.text


def test_two_who_pull_the_same_share_it(
    house: House, hub: Hub, together: ThreadPoolExecutor
) -> None:
    answers = list(together.map(lambda _: pull(house.daemon), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    fetched = [asked.path for asked in hub.downloads()]
    assert len(fetched) == len(set(fetched))
    listings = [asked for asked in hub.asked if "/revision/" in asked.path]
    assert len(listings) <= 2  # those who come when it is done ask anew


def test_a_pull_that_nobody_waits_for_ends(house: House, hub: Hub) -> None:
    hub.faults = [Fault(cut_after=10, until=threading.Event())] * 9
    with house.daemon.client.stream(
        "POST", "/api/v0/pull", json={"model": NAME, "stream": True}
    ) as response:
        assert response.status_code == 200
        assert hub.sent.acquire(timeout=30)
    eventually(lambda: not list(house.cache.glob(".staging-*")))
    hub.faults = []
    assert pull(house.daemon).status_code == 200


def test_a_daemon_that_stops_does_not_wait_for_pulls(house: House, hub: Hub) -> None:
    hub.faults = [Fault(cut_after=10, until=threading.Event())] * 9
    with house.daemon.client.stream(
        "POST", "/api/v0/pull", json={"model": NAME, "stream": True}
    ) as response:
        assert hub.sent.acquire(timeout=30)
        assert house.daemon.terminate() == 0
        assert "draining" in response.read().decode()


def test_a_pull_that_does_not_end_keeps_no_answer_back_at_the_end(
    start_daemon: Callable[..., Daemon],
    hub: Hub,
    tmp_path: Path,
    checkpoint: Path,
    together: ThreadPoolExecutor,
) -> None:
    settings = {"LEMONADE_WORKER__STOP_TIMEOUT_S": "60", "LEMONADE_WORKER__SEQUENCE_SLOTS": "1"}
    house = House(start_daemon, tmp_path, {"HF_ENDPOINT": hub.url, **settings})
    house.put(checkpoint, "copied")
    daemon = house.daemon
    hub.faults = [Fault(cut_after=10, until=threading.Event())] * 9
    pulling = together.submit(pull, daemon)
    assert hub.sent.acquire(timeout=30)
    (job,) = psutil.Process(daemon.process.pid).children()
    job.suspend()
    body = {"model": "copied", "prompt": "Hi", "max_tokens": 1000, "ignore_eos": True}
    running = daemon.events("/v1/completions", body)
    next(running)
    (worker,) = daemon.workers()
    worker.suspend()
    asked = together.submit(daemon.complete, "copied")
    eventually(lambda: daemon.model()["requests_waiting"] == 1)
    daemon.process.send_signal(signal.SIGTERM)
    assert asked.result(30).status_code == 503
    assert job.is_running()
    for process in (job, worker):
        process.kill()
    assert daemon.process.wait(60) == 0
    assert pulling.result().status_code == 503
    running.close()


def test_a_model_is_pulled_when_it_is_first_asked_for_if_that_is_wanted(
    start_daemon: Callable[..., Daemon], hub: Hub, tmp_path: Path
) -> None:
    wanting = House(
        start_daemon, tmp_path, {"HF_ENDPOINT": hub.url, "LEMONADE_HUB__AUTO_PULL": "true"}
    )
    assert wanting.daemon.client.get(f"/v1/models/{NAME}").status_code == 404
    assert hub.asked == []
    answer = wanting.daemon.complete(NAME)
    assert answer.status_code == 200, answer.text
    assert wanting.daemon.complete("unknown").status_code == 404
    assert wanting.daemon.complete("org/unknown").status_code == 404


def test_who_cannot_wait_for_a_pull_is_told_to_come_again(
    start_daemon: Callable[..., Daemon], hub: Hub, tmp_path: Path
) -> None:
    settings = {"LEMONADE_HUB__AUTO_PULL": "true", "LEMONADE_POOL__QUEUE_TIMEOUT_S": "1"}
    wanting = House(start_daemon, tmp_path, {"HF_ENDPOINT": hub.url, **settings})
    released = threading.Event()
    hub.faults = [Fault(cut_after=10, until=released)]
    answer = wanting.daemon.complete(NAME)
    assert answer.status_code == 503, answer.text
    assert "is being pulled" in answer.text
    assert answer.headers["Retry-After"]
    released.set()
    eventually(lambda: NAME in wanting.names())


def test_a_model_that_was_copied_is_there_at_once(house: House, checkpoint: Path) -> None:
    assert house.names() == []
    house.put(checkpoint, "copied")
    assert house.names() == ["copied"]
    assert house.daemon.complete("copied").status_code == 200
    assert "not known" in house.say("show", "copied")


def test_models_say_what_they_can_do(house: House, checkpoint: Path) -> None:
    house.put(checkpoint, "copied")
    (model,) = house.daemon.client.get("/v1/models").json()["data"]
    strictly(Model, model, beyond=MODEL_EXTRAS)
    assert {"completion", "chat"} <= set(model["capabilities"])
    assert (model["dtype"], model["device"], model["root"]) == ("fp32", "cpu", "copied")
    assert model["size"] > 0
    assert model["context_length"] > 0


def test_one_name_in_two_dtypes_and_revisions_is_told_apart(
    house: House, hub: Hub, checkpoint: Path
) -> None:
    old = dict(hub.repositories[NAME].files)
    old["tokenizer_config.json"] += b"\n"
    hub.revisions[NAME, "v1"] = type(hub.repositories[NAME])(files=old)
    assert pull(house.daemon).status_code == 200
    assert pull(house.daemon, model=f"{NAME}@v1").json()["model"] == f"{NAME}@v1"
    house.put(checkpoint, f"{NAME}/int8")  # its matrices are what they are
    other = house.cache / NAME / "int8" / "provenance.json"
    other.write_text('{"dtype": "int8"}')
    models = {m["id"]: m for m in house.daemon.client.get("/v1/models").json()["data"]}
    assert set(models) == {NAME, f"{NAME}:fp32", f"{NAME}@v1"}
    assert models[NAME]["dtype"] == "int8"
    assert models[f"{NAME}@v1"]["revision"] == hub.revisions[NAME, "v1"].commit
    assert house.daemon.complete(f"{NAME}:fp32").status_code == 200
    (resident,) = house.daemon.health()["all_models_loaded"]
    assert resident["dtype"] == "fp32"


def test_a_removal_frees_the_disk_and_lasts(house: House) -> None:
    pull(house.daemon)
    assert house.left()
    refused = house.daemon.client.delete("/api/v0/models", params={"model": "none"})
    assert refused.status_code == 404
    assert "removed" in house.say("rm", NAME)
    assert house.names() == []
    assert list(house.cache.rglob("*")) == []
    assert house.left() == []
    house.restart()
    assert house.names() == []


def test_a_resident_model_is_not_removed_without_force(house: House) -> None:
    pull(house.daemon)
    house.say("pin", NAME)
    refused = house.run("rm", NAME)
    assert refused.returncode == 1
    assert "lemonade-serve unload" in refused.stderr
    assert house.daemon.complete(NAME).status_code == 200
    answer = house.daemon.client.delete("/api/v0/models", params={"model": NAME})
    assert (answer.status_code, answer.json()["code"]) == (409, "model_in_use")
    house.say("rm", NAME, "--force")
    assert house.daemon.health()["all_models_loaded"] == []
    house.restart()
    assert house.daemon.logged("preload_failed") == []


def test_what_another_program_fetched_stays(house: House) -> None:
    environment = {**os.environ, **house.settings}
    code = f"import huggingface_hub as h; h.snapshot_download({NAME!r})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    before = sorted(house.left())
    pull(house.daemon)
    house.say("rm", NAME)
    assert sorted(house.left()) == before


def test_an_alias_routes_and_survives_a_restart(house: House, checkpoint: Path) -> None:
    house.put(checkpoint, "first")
    house.put(checkpoint, "second")
    house.say("alias", "chat", "first")
    assert house.daemon.complete("chat").json()["model"] == "first"
    assert house.names() == ["first", "second", "chat"]
    assert house.daemon.client.get("/v1/models/chat").json()["root"] == "first"
    house.restart()
    assert house.daemon.complete("chat").json()["model"] == "first"
    house.say("alias", "chat", "second")
    assert house.daemon.complete("chat").json()["model"] == "second"
    assert "chat" in house.say("alias")
    assert "second" in house.say("show", "chat")
    house.say("alias", "chat", "--remove")
    assert house.daemon.complete("chat").status_code == 404
    assert house.run("alias", "chat", "--remove").returncode == 1


def test_an_alias_of_an_alias_is_refused(house: House) -> None:
    house.say("alias", "a", "model")
    for pair in (("b", "a"), ("model", "other"), ("c", "c"), ("../x", "y")):
        answer = house.daemon.client.post(
            "/api/v0/aliases", json={"alias": pair[0], "model": pair[1]}
        )
        assert answer.status_code == 400, pair
    assert house.daemon.client.get("/api/v0/aliases").json() == {
        "data": [{"alias": "a", "model": "model"}]
    }


def test_without_a_daemon_the_same_commands_do_it(house: House, checkpoint: Path) -> None:
    house.put(checkpoint, "copied")
    house.put(checkpoint, "other")
    assert house.daemon.terminate() == 0
    house.say("alias", "chat", "other")
    house.say("rm", "copied")
    assert json.loads(house.say("list", "--json"))[0]["name"] == "other"
    house.daemon = house._start(**house.settings)
    assert house.names() == ["other", "chat"]
