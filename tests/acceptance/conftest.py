"""Daemons that tests share, and who asks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.acceptance.calls import unload
from tests.acceptance.openai_clients import KEY, client_of
from tests.daemon import Daemon
from tests.gallery import TWIN, Gallery


@pytest.fixture(scope="module")
def house(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An NPU with room for one model, the CPU, a model for those that name none; one request of a
    model runs at a time, and no stream is silent for long."""
    settings = {
        "LEMONADE_CACHE_DIR": str(gallery.root),
        "LEMONADE_CACHE_ROOTS": str(gallery.elsewhere),
        "LEMONADE_DEFAULT_MODEL": TWIN,
        "LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER": "cpu",
        "LEMONADE_DEVICES__NPU__MAX_MODELS": "1",
        "LEMONADE_SERVER__KEEPALIVE_S": "0.05",
        "LEMONADE_SERVER__STATUS_HOLD_S": "0.05",
        "LEMONADE_WORKER__SEQUENCE_SLOTS": "1",
        "LEMONADE_POOL__MIN_RESIDENCY_S": "0",
    }
    with Daemon.start(tmp_path_factory.mktemp("settled"), settings) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def keyed(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Alice's alone, who has the `KEY`."""
    settings = {"LEMONADE_CACHE_DIR": str(cache_dir), "LEMONADE_API_KEYS__ALICE": KEY}
    with Daemon.start(tmp_path_factory.mktemp("keyed"), settings) as daemon:
        yield daemon


@pytest.fixture
def client(shared_daemon: Daemon) -> Iterator[openai.OpenAI]:
    with client_of(shared_daemon) as client:
        yield client


@pytest.fixture
def daemon(house: Daemon) -> Daemon:
    """With nothing loaded."""
    unload(house, force=True)
    return house
