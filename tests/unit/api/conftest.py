"""The whole application in this process: real routes, real catalogue, fake workers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lemonade_serve.app import Application, open_app
from lemonade_serve.settings import Settings
from tests.fakes import FakeLauncher
from tests.unit.hub.graphs import put


class House:
    """The application, its launcher, and a client of it."""

    def __init__(
        self, application: Application, launcher: FakeLauncher, client: httpx.AsyncClient
    ) -> None:
        self.application = application
        self.launcher = launcher
        self.client = client


Open = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def open_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a house with the checkpoints `small` and `org/large` in it."""
    monkeypatch.setattr("lemonade_serve.app.configure_logging", lambda _: None)
    put(tmp_path / "small" / "int4")
    put(tmp_path / "org" / "large" / "fp32", "fp32")

    @asynccontextmanager
    async def house(**settings: Any) -> AsyncGenerator[House]:
        launcher = FakeLauncher("so", " it", " goes")
        directories = {"cache_dir": str(tmp_path), "state_dir": str(tmp_path / "state")}
        async with (
            open_app(Settings(**directories, **settings), launcher=launcher) as application,
            httpx.AsyncClient(transport=_transport(application), base_url="http://house") as client,
        ):
            yield House(application, launcher, client)

    return house


def _transport(application: Application) -> httpx.ASGITransport:
    return httpx.ASGITransport(application.asgi)  # type: ignore[arg-type]
