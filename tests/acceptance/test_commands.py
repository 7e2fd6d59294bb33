"""The command line, as a person types it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.daemon import MODEL, eventually, is_gone


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


@pytest.fixture(scope="module")
def url(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon on TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lemonade_serve", "serve"),
                *("--port", str(port), "--cache-dir", str(cache_dir)),
            ],
            stderr=stderr,
        )
    eventually(lambda: b"daemon_ready" in log.read_bytes())
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(30) == 0


def test_help_shows_every_command_with_an_example() -> None:
    text = lemonade("--help").stdout
    for command in ("demo", "import", "list", "run", "serve"):
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
