"""Tiny real child processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lemonade_serve.runtime.child import Child

MODULE = "tests.unit.runtime.child"

Behave = Callable[[str], None]


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Behave:
    """Whatever is started from now on is a tiny child that behaves so."""
    start = Child.start

    async def start_tiny(module: str, **told: Any) -> Child:
        return await start(MODULE, **told)

    monkeypatch.setattr(Child, "start", start_tiny)
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    return lambda behaviour: monkeypatch.setenv("CHILD", behaviour)
