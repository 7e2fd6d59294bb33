"""`lemonade-serve pull`, against a hub of our own."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.daemon import eventually
from tests.hub import TOKEN, Fault, Hub, running

NAME = "org/tiny"
LARGE = random.Random(11).randbytes(4_000_000)  # noqa: S311, no secret
SEED = 20


class Machine:
    """What `lemonade-serve pull` runs on."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.cache = directory / "cache"
        self.home = directory / "home"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": hub.url,
            "LEMONADE_CACHE_DIR": str(self.cache),
            "LEMONADE_HUB__MIN_FREE_BYTES": "0",
        }

    def start(self, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "lemonade_serve", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )

    def pull(self, *arguments: str, **popen: Any) -> tuple[int, str, str]:
        return self.run("pull", *arguments, **popen)

    def run(self, *arguments: str, **popen: Any) -> tuple[int, str, str]:
        process = self.start(*arguments, **popen)
        output, complaint = process.communicate(timeout=120)
        return process.returncode, output, complaint

    def pulled(self, *arguments: str) -> dict[str, Any]:
        code, output, complaint = self.pull(*arguments, "--json")
        assert code == 0, complaint
        answer: dict[str, Any] = json.loads(output)
        return answer

    def partial(self) -> Path:
        (path,) = self.home.glob("hub/models--*/blobs/*.incomplete")
        return path

    def left(self) -> list[str]:
        """What lies in the cache of checkpoints."""
        return sorted(str(path.relative_to(self.cache)) for path in self.cache.rglob("*"))


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def contents(directory: str) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
    files.pop("provenance.json")
    return files


def test_a_checkpoint_is_pulled_and_says_where_it_came_from(
    machine: Machine, tiny_files: dict[str, bytes]
) -> None:
    repository = machine.hub.add(
        NAME, {**{f"cpu/{name}": content for name, content in tiny_files.items()}, "a.md": b"?"}
    )
    answer = machine.pulled(NAME)
    assert (answer["model"], answer["new"]) == (NAME, True)
    assert contents(answer["path"]) == tiny_files
    provenance = json.loads(Path(answer["path"], "provenance.json").read_bytes())
    source = provenance["source"]
    assert (source["repository"], source["commit"]) == (NAME, repository.commit)
    assert (provenance["license"], provenance["dtype"]) == ("apache-2.0", answer["dtype"])
    assert source["program"].startswith("lemonade-serve ")
    assert {file["path"] for file in source["files"]} == {f"cpu/{name}" for name in tiny_files}
    assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) for file in source["files"])

    asked = len(machine.hub.downloads())
    assert machine.pulled(NAME)["new"] is False
    assert len(machine.hub.downloads()) == asked


def test_a_gguf_file_is_pulled_and_imported(machine: Machine, smollm2_gguf: Path) -> None:
    content = smollm2_gguf.read_bytes()
    machine.hub.add(NAME, {"tiny-Q4_1.gguf": content, "tiny-Q8_0.gguf": b"x", "README.md": b"?"})
    answer = machine.pulled(NAME, "--include", "*Q4_1.gguf", "--name", "mine")
    assert (answer["model"], answer["dtype"]) == ("mine", "int8")
    provenance = json.loads(Path(answer["path"], "provenance.json").read_bytes())
    assert provenance["source"]["how"] == "imported from a GGUF file"
    assert provenance["source_sha256"] == provenance["source"]["files"][0]["sha256"]


def test_a_revision_stands_beside_another(machine: Machine, tiny_files: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny_files)
    old = {**tiny_files, "tokenizer.json": b"old"}
    machine.hub.revisions[NAME, "v1"] = type(machine.hub.repositories[NAME])(files=old)
    paths = [machine.pulled(f"{NAME}{at}")["path"] for at in ("", "@v1")]
    assert [contents(path) for path in paths] == [tiny_files, old]
    commit = machine.hub.revisions[NAME, "v1"].commit
    assert machine.pulled(f"{NAME}@{commit}")["commit"] == commit


def test_a_pull_that_is_killed_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """With SIGKILL, at twenty offsets."""
    chance = random.Random(SEED)  # noqa: S311, no secret
    machine = Machine(hub, tmp_path)
    hub.add(NAME, {"model.onnx": LARGE})
    into = tmp_path / "into"
    begins = [0]

    def has_more() -> bool:
        return machine.partial().stat().st_size > begins[-1]

    for _ in range(20):
        released = threading.Event()
        hub.faults = [Fault(cut_after=chance.randrange(20_000, 300_000), until=released)]
        job = subprocess.Popen([sys.executable, "-c", _FETCH, str(into)], env=machine.environment)
        hub.sent.acquire()
        eventually(has_more)
        job.kill()
        job.wait()
        released.set()
        begins.append(machine.partial().stat().st_size)
    hub.faults = []
    done = subprocess.run(
        [sys.executable, "-c", _FETCH, str(into)], env=machine.environment, check=False
    )
    assert done.returncode == 0
    assert (into / "model.onnx").read_bytes() == LARGE
    ranges = [asked.range for asked in hub.downloads()]
    assert ranges == [None, *(f"bytes={begin}-" for begin in begins[1:])]
    assert list(machine.home.rglob("*.incomplete")) == []


_FETCH = f"""
import pathlib, sys
from lemonade_serve.importers.fetching import fetch
from lemonade_serve.importers.hub import list_repository
from lemonade_serve.protocol.jobs import FetchFiles, ListRepository
into = pathlib.Path(sys.argv[1])
into.mkdir(exist_ok=True)
listed = list_repository(ListRepository({NAME!r}, ""))
fetch(
    FetchFiles({NAME!r}, listed.commit, listed.files, str(into), "", 1, 0, 30.0, 8),
    lambda stage, fraction: None,
)
"""
"""What a job process does."""


def test_the_command_that_is_killed_leaves_no_process_and_no_checkpoint(
    machine: Machine, tiny_files: dict[str, bytes]
) -> None:
    machine.hub.add(NAME, {**tiny_files, "model.onnx.data": LARGE})
    machine.hub.faults = [Fault(cut_after=200_000, until=threading.Event())]
    process = machine.start("pull", NAME)
    machine.hub.sent.acquire()
    jobs = psutil.Process(process.pid).children(recursive=True)
    assert jobs
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(jobs, timeout=30)
    assert alive == []
    assert not list(machine.cache.rglob("genai_config.json"))
    assert machine.pulled(NAME)["new"] is True
    assert not list(machine.cache.glob(".staging-*"))


def test_an_interrupted_pull_ends_and_keeps_what_it_has(
    machine: Machine, tiny_files: dict[str, bytes]
) -> None:
    machine.hub.add(NAME, {**tiny_files, "model.onnx.data": LARGE})
    machine.hub.faults = [
        *(Fault() for _ in tiny_files.keys() - {"model.onnx.data"}),
        Fault(cut_after=200_000, until=threading.Event()),
    ]
    machine.environment["LEMONADE_HUB__FILES_AT_ONCE"] = "1"
    _in_order(machine.hub, last="model.onnx.data")
    # whoever runs these tests in the background may have it ignored
    heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = machine.start("pull", NAME, preexec_fn=heeding)
    machine.hub.sent.acquire()
    eventually(lambda: machine.partial().stat().st_size)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert machine.left() == []
    begin = machine.partial().stat().st_size
    machine.pulled(NAME)
    assert machine.hub.downloads()[-1].range == f"bytes={begin}-"


def _in_order(hub: Hub, last: str) -> None:
    files = hub.repositories[NAME].files
    files[last] = files.pop(last)


def test_two_pulls_of_one_model_at_once_fetch_it_once(
    machine: Machine, tiny_files: dict[str, bytes]
) -> None:
    machine.hub.add(NAME, tiny_files)
    together = [machine.start("pull", NAME, "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in together]
    assert [process.returncode for process in together] == [0, 0], outputs
    paths = [json.loads(output)["path"] for output, _ in outputs]
    assert paths[0] == paths[1]
    assert contents(paths[0]) == tiny_files
    fetched = [asked.path for asked in machine.hub.downloads()]
    assert len(fetched) == len(set(fetched)) == len(tiny_files)


def test_a_disk_that_fills_up_leaves_nothing_half_made(
    machine: Machine, tiny_files: dict[str, bytes]
) -> None:
    machine.hub.add(NAME, {**tiny_files, "model.onnx.data": LARGE})
    room = len(LARGE) // 2
    code, _, complaint = machine.pull(
        NAME, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    )
    assert code == 1
    assert "is full" in complaint
    assert machine.left() == []
    assert not list(machine.home.rglob("*.incomplete"))
    assert machine.pulled(NAME)["new"] is True


def test_what_would_not_fit_is_not_begun(machine: Machine, tiny_files: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny_files)
    machine.environment["LEMONADE_HUB__MIN_FREE_BYTES"] = str(1 << 60)
    code, _, complaint = machine.pull(NAME)
    assert (code, machine.hub.downloads()) == (1, [])
    assert "min_free_bytes" in complaint


def test_a_digest_that_is_wrong_is_refused(machine: Machine, tiny_files: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny_files)
    data = tiny_files["model.onnx.data"]
    machine.hub.lie["model.onnx.data"] = data[:-1] + bytes([data[-1] ^ 1])
    code, _, complaint = machine.pull(NAME)
    assert code == 1
    assert "digest" in complaint
    assert machine.left() == []


def test_a_private_repository_needs_a_token(machine: Machine, tiny_files: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny_files, private=True)
    code, _, complaint = machine.pull(NAME)
    assert code == 1
    assert "HF_TOKEN" in complaint
    machine.environment["HF_TOKEN"] = TOKEN
    assert machine.pulled(NAME)["new"] is True


def test_offline_what_is_here_is_published(machine: Machine, tiny_files: dict[str, bytes]) -> None:
    machine.hub.add(NAME, tiny_files)
    machine.pulled(NAME)
    machine.environment["HF_HUB_OFFLINE"] = "1"
    machine.environment["LEMONADE_CACHE_DIR"] = str(machine.cache / "other")
    asked = len(machine.hub.asked)
    assert machine.pulled(NAME)["new"] is True
    assert len(machine.hub.asked) == asked
    code, _, complaint = machine.pull("org/unknown")
    assert code == 1
    assert "HF_HUB_OFFLINE" in complaint


def test_a_proxy_is_asked_where_one_is_set(machine: Machine) -> None:
    with running() as proxy:
        machine.environment["HTTP_PROXY"] = proxy.url
        machine.environment["HF_ENDPOINT"] = "http://hub.invalid"
        assert machine.pull(NAME)[0] == 1
        assert proxy.asked[0].path == f"/api/models/{NAME}/revision/main"


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "org/x@", "org/x@../y"])
def test_what_names_no_repository_is_refused(machine: Machine, name: str) -> None:
    code, _, complaint = machine.pull(name)
    assert code == 1
    assert "names no repository" in complaint
    assert machine.hub.asked == []
