"""Where clients' parameters are kept, as the settings say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from lemonade_serve.domain.ports import ParamsStore
from lemonade_serve.settings import Settings
from lemonade_serve.store.cached import CachedParamsStore
from lemonade_serve.store.database import DatabaseParamsStore

DATABASE = "lemonade.db"
"""The SQLite file in the state directory."""


@asynccontextmanager
async def open_params_store(settings: Settings) -> AsyncGenerator[ParamsStore]:
    """SQLite in the state directory, which must be this daemon's alone (`StateDirectory`): it is
    cached. Or the PostgreSQL database of `database_url`: others may write to it, so it is not.

    Raises SettingsError and StoreUnavailable as `DatabaseParamsStore.open` does.
    """
    where = settings.database_url or settings.state_path / DATABASE
    async with DatabaseParamsStore.open(
        where, max_clients=settings.max_clients, timeout_s=settings.store_timeout_s
    ) as store:
        if settings.database_url:
            yield store
        else:
            yield CachedParamsStore(store, max_entries=settings.max_clients)
