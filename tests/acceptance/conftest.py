"""Daemons that a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.calls import unload
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


@pytest.fixture
def daemon(house: Daemon) -> Daemon:
    """With nothing loaded."""
    unload(house, force=True)
    return house
