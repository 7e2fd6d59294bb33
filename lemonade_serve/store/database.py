"""Clients' parameters in a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from lemonade_serve.errors import ClientLimit, StoreUnavailable
from lemonade_serve.settings.parameters import Options
from lemonade_serve.store.calls import Calls
from lemonade_serve.store.connections import Connections, connect, lock
from lemonade_serve.store.models import ClientParams
from lemonade_serve.store.schema import is_current, migrate

_T = TypeVar("_T")

NOTHING = Options()

log = structlog.get_logger()


class DatabaseParamsStore:
    """A `ParamsStore`. Every call has its deadline; who gives up waiting for one does no harm.

    A call runs in a task of its own, so that a caller who leaves cannot break it off in the
    middle of a commit. After its deadline nothing but a commit under way goes on.
    """

    def __init__(self, connections: Connections, *, max_clients: int, timeout_s: float) -> None:
        self._connections = connections
        self._max_clients = max_clients
        self._timeout_s = timeout_s
        self._calls = Calls()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, where: Path | str, *, max_clients: int, timeout_s: float
    ) -> AsyncGenerator[DatabaseParamsStore]:
        """On the SQLite file at a path, or the PostgreSQL database of a URL; its schema is
        brought up to date first.

        Raises SettingsError for a bad URL and for a schema that is newer than this program, and
        StoreUnavailable, saying why, when the database cannot be used.
        """
        connections = connect(where, timeout_s=timeout_s)
        store = cls(connections, max_clients=max_clients, timeout_s=timeout_s)
        try:
            try:
                if not await is_current(connections):
                    await migrate(where)
            except (SQLAlchemyError, OSError) as error:
                raise StoreUnavailable(f"{connections.place}: {_reason(error)}") from error
            yield store
        finally:
            await store._close()

    async def get(self, client: str, model: str = "") -> Options:
        return await self._in_time("get", self._get(client, model))

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        return await self._in_time("edit", self._edit(client, model, change))

    async def forget(self, client: str, model: str | None = None) -> None:
        await self._in_time("forget", self._forget(client, model))

    async def _get(self, client: str, model: str) -> Options:
        kept = select(ClientParams.options).filter_by(client=client, model=model)
        async with asyncio.timeout(self._timeout_s), self._connections.reading.connect() as c:
            return (await c.execute(kept)).scalar_one_or_none() or NOTHING

    async def _edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        async with AsyncSession(self._connections.writing) as session:
            async with asyncio.timeout(self._timeout_s):
                await lock(await session.connection(), f"client {client}")
                row = await session.get(ClientParams, (client, model))
                kept = change(row.options if row else NOTHING)
                await self._put(
                    session, row, ClientParams(client=client, model=model, options=kept)
                )
                await session.flush()
            await session.commit()
        return kept

    async def _put(
        self, session: AsyncSession, row: ClientParams | None, wanted: ClientParams
    ) -> None:
        if row and wanted.options == NOTHING:
            await session.delete(row)
        elif row:
            row.options = wanted.options
        elif wanted.options != NOTHING:
            await self._admit(session, wanted.client)
            session.add(wanted)

    async def _admit(self, session: AsyncSession, client: str) -> None:
        """Raises ClientLimit for a new client that is one too many."""
        rows = select(func.count()).select_from(ClientParams).filter_by(client=client)
        if await session.scalar(rows):
            return
        await lock(await session.connection(), "clients")
        clients = await session.scalar(select(func.count(ClientParams.client.distinct())))
        if clients is not None and clients >= self._max_clients:
            raise ClientLimit()

    async def _forget(self, client: str, model: str | None) -> None:
        rows = delete(ClientParams).filter_by(client=client)
        if model is not None:
            rows = rows.filter_by(model=model)
        async with AsyncSession(self._connections.writing) as session:
            async with asyncio.timeout(self._timeout_s):
                await lock(await session.connection(), f"client {client}")
                await session.execute(rows)
            await session.commit()

    async def _in_time(self, operation: str, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return await self._calls.run(work, timeout_s=self._timeout_s)
        except (SQLAlchemyError, OSError) as error:
            log.warning("store_failed", operation=operation, reason=_reason(error))
            raise StoreUnavailable() from error

    async def _close(self) -> None:
        await self._calls.close(timeout_s=self._timeout_s)
        await self._connections.writing.dispose()


def _reason(error: SQLAlchemyError | OSError) -> str:
    """In the database's words; without the statement, whose parameters are a client's."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or "it took too long"
    return str(error.orig if isinstance(error, DBAPIError) else error)
