"""Where the settings say that parameters are kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lemonade_serve.errors import ClientLimit, SettingsError
from lemonade_serve.settings import Options, Settings
from lemonade_serve.store.cached import CachedParamsStore
from lemonade_serve.store.params import open_params_store
from tests.fakes import asynchronous


@asynchronous
async def test_they_are_in_the_state_directory_and_at_hand(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path), max_clients=1)
    async with open_params_store(settings) as store:
        assert isinstance(store, CachedParamsStore)
        await store.edit("a", "", lambda _: Options(seed=1))
        with pytest.raises(ClientLimit):
            await store.edit("b", "", lambda _: Options(seed=1))
        for name in ("lemonade.db", "lemonade.db-wal"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    async with open_params_store(settings) as store:
        assert await store.get("a") == Options(seed=1)


@asynchronous
async def test_a_url_wins_over_the_state_directory(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path / "nowhere"), database_url="mysql://host/db")
    with pytest.raises(SettingsError, match="database_url"):
        async with open_params_store(settings):
            pass
