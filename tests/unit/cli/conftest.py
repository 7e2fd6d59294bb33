from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cli.scripted import ScriptedDaemon, scripted


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDaemon]:
    """Whom every command asks that names nobody else."""
    with scripted() as daemon:
        monkeypatch.setenv("LEMONADE_URL", daemon.url)
        yield daemon
