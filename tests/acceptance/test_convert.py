"""`lemonade-serve convert` and pulls of safetensors where nothing can convert them. Where something
can: tests/system/test_conversion.py."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import checkpoints, sources
from tests.daemon import Daemon
from tests.hub import running

NAME = "org/small"


@pytest.fixture(scope="module")
def small(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = checkpoints.original(cache_dir)
    return sources.put(tmp_path_factory.mktemp("sources") / "small", tokenizer)


def lemonade(cache: Path, *command: str, python: str, **more: str) -> tuple[int, str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("LEMONADE_", "HF_"))}
    own = {"LEMONADE_CACHE_DIR": str(cache), "LEMONADE_CONVERT__PYTHON": python}
    done = subprocess.run(
        [sys.executable, "-m", "lemonade_serve", *command],
        env={**known, **own, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """Of an environment with nothing in it."""
    venv.create(tmp_path / "bare", with_pip=False)
    return str(tmp_path / "bare" / "bin" / "python")


def test_without_an_interpreter_or_in_one_without_us_it_says_what_to_do(
    small: Path, tmp_path: Path, bare_python: str
) -> None:
    for python in ("/nowhere/python", bare_python):
        code, said = lemonade(
            *(tmp_path / "cache", "convert", str(small)), python=python, PYTHONPATH=""
        )
        assert code == 1
        assert f"{python} cannot: the job did not start" in said
        assert "extra `export`, and set convert.python" in said
        assert not (tmp_path / "cache").exists()


def test_what_cannot_be_converted_is_not_fetched(small: Path, tmp_path: Path) -> None:
    with running() as hub:
        hub.add(NAME, {path.name: path.read_bytes() for path in small.iterdir()})
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        code, said = lemonade(
            *(tmp_path / "cache", "pull", NAME), python="/nowhere/python", **places
        )
        assert code == 1
        assert "set convert.python" in said
        assert hub.downloads() == []


def test_over_http_it_is_an_error_that_says_so(
    small: Path, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    with running() as hub:
        hub.add(NAME, {path.name: path.read_bytes() for path in small.iterdir()})
        daemon = start_daemon(
            LEMONADE_CONVERT__PYTHON="/nowhere/python",
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "home"),
        )
        answer = daemon.client.post("/api/v0/pull", json={"model": NAME})
        assert answer.status_code == 400
        assert "set convert.python" in answer.text
        assert hub.downloads() == []


def test_what_the_builder_does_not_make_is_refused_at_once(small: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code, said = lemonade(cache, "convert", str(small), "--dtype", "fp16", python=sys.executable)
    assert code == 1
    assert "no fp16 for cpu, but int4, int8, fp32" in said
    code, said = lemonade(cache, "convert", str(small), "--device", "npu", python=sys.executable)
    assert code == 1
    assert "set devices.npu" in said


def test_the_daemon_and_the_commands_import_no_torch() -> None:
    program = """
import importlib, pkgutil, sys, lemonade_serve
for part in ("api", "app", "cli", "devices", "domain", "hub", "runtime", "store", "telemetry"):
    module = importlib.import_module(f"lemonade_serve.{part}")
    for one in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + "."):
        if ".migrations." not in one.name:
            importlib.import_module(one.name)
print(sorted({"torch", "transformers", "onnx_ir", "safetensors"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
