"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.daemon import MODEL, Daemon, eventually, is_gone


def lemonade(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "lemonade_serve", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test's daemon may keep what it likes."""
    monkeypatch.setenv("LEMONADE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def url(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon on TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = tmp_path_factory.mktemp("serve")
    log = directory / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lemonade_serve", "serve"),
                *("--port", str(port), "--cache-dir", str(cache_dir)),
            ],
            env={**os.environ, "LEMONADE_STATE_DIR": str(directory / "state")},
            stderr=stderr,
        )
    eventually(lambda: b"daemon_ready" in log.read_bytes())
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(30) == 0


def test_help_shows_every_command_with_an_example() -> None:
    text = lemonade("--help").stdout
    for command in (
        *("demo", "serve", "import", "list", "run", "stats", "params"),
        *("ps", "load", "unload", "pin", "unpin"),
    ):
        assert f"lemonade-serve {command}" in text
        assert lemonade(command, "--help").returncode == 0


def test_run_streams_an_answer(url: str) -> None:
    question = "In which city is the Eiffel Tower?"
    answer = lemonade("run", MODEL, question, "--temperature", "0", "--url", url, "--stats")
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout
    assert "tokens/s" in answer.stderr


def test_run_reads_standard_input_and_prints_json(url: str) -> None:
    answer = lemonade(
        *("run", MODEL, "--raw", "--max-tokens", "4", "--temperature", "0", "--json", "--url", url),
        stdin="The capital of France is",
    )
    assert json.loads(answer.stdout)["completion_tokens"] == 4


def test_run_says_what_to_do_when_it_cannot(url: str) -> None:
    nobody = lemonade("run", MODEL, "Hi", "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert "lemonade-serve serve" in nobody.stderr
    unknown = lemonade("run", "nothing", "Hi", "--url", url)
    assert unknown.returncode == 1
    assert "lemonade-serve list" in unknown.stderr
    empty = lemonade("run", MODEL, "--url", url)
    assert empty.returncode == 2


def test_models_come_and_go_on_command(url: str) -> None:
    def resident() -> list[dict[str, object]]:
        models = json.loads(lemonade("ps", "--json", "--url", url).stdout)["all_models_loaded"]
        assert isinstance(models, list)
        return models

    loaded = lemonade("load", MODEL, "--device", "cpu", "--url", url)
    assert loaded.returncode == 0, loaded.stderr
    assert MODEL in loaded.stdout
    (model,) = resident()
    assert (model["model_name"], model["state"], model["pinned"]) == (MODEL, "resident", False)
    lines = lemonade("ps", "--url", url).stdout.splitlines()
    header, row, _, _, engine, _, devices, *_ = lines
    assert header.split()[0] == "MODEL"
    assert row.split()[:3] == [MODEL, "cpu", "int8"]
    assert str(model["pid"]) in row.split()
    assert engine.split()[:4] == ["batched", MODEL, "GroupQueryAttention", "with"]
    assert devices.split() == ["DEVICE", "PROVIDER", "MODELS", "MEMORY"]

    assert lemonade("pin", MODEL, "--url", url).returncode == 0
    assert resident()[0]["pinned"] is True
    assert lemonade("unpin", "--all", "--url", url).returncode == 0
    assert resident()[0]["pinned"] is False

    assert lemonade("unload", "--url", url).returncode == 2
    assert lemonade("unload", MODEL, "--url", url).returncode == 0
    assert resident() == []
    assert not psutil.pid_exists(int(str(model["pid"])))
    assert "No model is loaded" in lemonade("ps", "--url", url).stdout
    assert lemonade("unload", MODEL, "--url", url).returncode == 0


def test_a_command_of_a_model_that_is_not_there_says_what_to_do(url: str) -> None:
    for command in ("load", "pin"):
        unknown = lemonade(command, "nothing", "--url", url)
        assert unknown.returncode == 1
        assert "lemonade-serve list" in unknown.stderr
        assert unknown.stderr.count("\n") == 1


def test_parameters_are_kept_for_a_client_until_they_are_reset(url: str) -> None:
    def params(*words: str, client: str = "alice") -> subprocess.CompletedProcess[str]:
        return lemonade("params", *words, "--client", client, "--url", url)

    def temperature(client: str) -> tuple[object, object]:
        shown = json.loads(params("get", "--json", client=client).stdout)
        return shown["params"]["temperature"], shown["sources"]["temperature"]

    changed = params("set", "temperature=0", "max_length=3")
    assert changed.stdout.splitlines() == ["temperature=0.0", "max_length=3"], changed.stderr
    assert temperature("alice") == (0, "client")
    assert temperature("bob") == (0.7, "default")
    answer = lemonade("run", MODEL, "Count.", "--json", "--client", "alice", "--url", url)
    assert json.loads(answer.stdout)["completion_tokens"] == 3

    wrong = params("set", "temperature=9")
    assert wrong.returncode == 1
    assert "temperature" in wrong.stderr
    assert params("reset", "temperature").returncode == 0
    assert temperature("alice") == (0.7, "default")
    assert "max_length" in params("get").stdout
    assert params("reset").returncode == 0
    assert json.loads(params("get", "--json").stdout)["sources"]["max_length"] == "default"


def test_stats_are_those_of_the_last_request(url: str) -> None:
    ask = ("run", MODEL, "Count.", "--max-tokens", "5", "--json", "--url", url)
    tokens = json.loads(lemonade(*ask).stdout)["completion_tokens"]
    stats = json.loads(lemonade("stats", "--json", "--url", url).stdout)
    assert (stats["model"], stats["output_tokens"]) == (MODEL, tokens)
    assert len(stats["decode_token_times"]) == tokens - 1
    assert "p95" in lemonade("stats", "--model", MODEL, "--url", url).stdout


def test_commands_ask_a_daemon_on_a_socket_too(shared_daemon: Daemon) -> None:
    url = f"unix:{shared_daemon.socket}"
    assert lemonade("load", MODEL, "--url", url).returncode == 0
    assert MODEL in lemonade("ps", "--url", url).stdout
    answer = lemonade("run", MODEL, "Hi", "--max-tokens", "2", "--url", url)
    assert answer.returncode == 0, answer.stderr


def test_a_daemon_with_keys_wants_one(
    start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start_daemon(LEMONADE_API_KEYS__ALICE="s3cret")
    monkeypatch.setenv("LEMONADE_URL", f"unix:{daemon.socket}")
    keyless, wrong = lemonade("ps"), lemonade("ps", "--api-key", "s3cres")
    assert keyless.returncode == wrong.returncode == 1
    assert "--api-key" in keyless.stderr
    assert "s3cres" not in wrong.stderr
    assert lemonade("ps", "--api-key", "s3cret").returncode == 0
    monkeypatch.setenv("LEMONADE_API_KEY", "s3cret")
    answer = lemonade("run", MODEL, "Hi", "--max-tokens", "2")
    assert answer.returncode == 0, answer.stderr


def test_list_shows_what_is_there(cache_dir: Path, tmp_path: Path) -> None:
    (row,) = json.loads(lemonade("list", "--json", "--cache-dir", str(cache_dir)).stdout)
    assert row["name"] == MODEL
    assert row["dtype"] == "int8"
    assert MODEL in lemonade("list", "--cache-dir", str(cache_dir)).stdout
    assert "import" in lemonade("list", "--cache-dir", str(tmp_path)).stdout


def test_import_names_what_it_cannot_do(tmp_path: Path, smollm2_gguf: Path) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF and then nothing of the kind")
    cache = tmp_path / "cache"
    failed = lemonade("import", str(junk), "--cache-dir", str(cache))
    assert failed.returncode == 1
    assert "junk.gguf" in failed.stderr
    assert "Traceback" not in failed.stderr
    unknown = lemonade("import", str(smollm2_gguf), "--cache-dir", str(cache), "--dtype", "fp8")
    assert unknown.returncode == 2
    assert "int8" in unknown.stderr
    unwritable = lemonade("import", str(smollm2_gguf), "--cache-dir", "/proc/nope")
    assert unwritable.returncode == 1
    assert "Traceback" not in unwritable.stderr
    assert lemonade("import", str(tmp_path / "absent.gguf")).returncode == 2
    bad_name = lemonade("import", str(junk), "--name", "../up", "--cache-dir", str(cache))
    assert "cannot name a model" in bad_name.stderr
    assert not list(cache.iterdir())


@pytest.mark.parametrize("victim", ["command", "job"])
def test_a_killed_import_leaves_nothing(tmp_path: Path, smollm2_gguf: Path, victim: str) -> None:
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lemonade_serve", "import", str(smollm2_gguf)),
            *("--dtype", "fp32", "--cache-dir", str(cache)),
        ],
        stderr=subprocess.DEVNULL,
    )

    def weights() -> list[Path]:
        return list(cache.glob(".staging-*/*.data"))

    eventually(weights)
    (job,) = psutil.Process(process.pid).children()
    (process if victim == "command" else job).kill()
    assert process.wait(30) != 0
    eventually(lambda: is_gone(job))
    assert not list(cache.iterdir())


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    config = tmp_path / "lemonade.toml"
    config.write_text("[server]\nprot = 1\n")
    failed = lemonade("serve", "--config", str(config))
    assert failed.returncode == 1
    assert "server.prot" in failed.stderr
    assert "server.port" in failed.stderr


def test_other_addresses_than_loopback_want_a_word() -> None:
    refused = lemonade("serve", "--host", "0.0.0.0", "--port", "12399")  # noqa: S104
    assert refused.returncode == 1
    assert "--allow-keyless" in refused.stderr


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_the_demo_answers_and_may_exit(cache_dir: Path, port: int) -> None:
    done = lemonade("demo", "--exit", "--port", str(port), "--cache-dir", str(cache_dir))
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "time to first token" in done.stdout


def test_the_demo_leaves_the_daemon_up(cache_dir: Path, port: int, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as stdout:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lemonade_serve", "demo"),
                *("--port", str(port), "--cache-dir", str(cache_dir)),
            ],
            stdout=stdout,
        )
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: f"curl {url}/api/v0/health" in said.read_text())
    assert httpx.get(f"{url}/api/v0/health").json()["model_loaded"] == MODEL
    process.terminate()
    assert process.wait(30) == 0


def test_the_demo_looks_at_the_port_first(cache_dir: Path, url: str, tmp_path: Path) -> None:
    taken = url.rpartition(":")[2]
    refused = lemonade("demo", "--port", taken, "--cache-dir", str(tmp_path / "empty"))
    assert refused.returncode == 1
    assert "--port" in refused.stderr
    assert not (tmp_path / "empty").exists()
