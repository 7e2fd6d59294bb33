"""How SQLite and PostgreSQL are reached, and what is different about them."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, event, func, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from lemonade_serve.errors import SettingsError

BUSY_TIMEOUT_S = 2.0
"""SQLite: how long a write waits for a writer in another process, if its deadline allows."""

POOL_SIZE = 5
"""PostgreSQL: connections of one daemon."""

_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}


class Connections(NamedTuple):
    """Two ways into one pool.

    `writing` begins transactions that `lock` works in; `reading` begins none, a statement is
    enough. `place` tells an operator which database it is, without secrets.
    """

    place: str
    reading: AsyncEngine
    writing: AsyncEngine


def connect(where: Path | str, *, timeout_s: float) -> Connections:
    """To the SQLite file at a path, or the PostgreSQL database of a URL; nothing is sent yet.

    Raises SettingsError for another kind of URL.
    """
    return _sqlite(where, timeout_s) if isinstance(where, Path) else _postgresql(where, timeout_s)


async def lock(connection: AsyncConnection, name: str) -> None:
    """Until the transaction ends, keep out every other one that locks the same name."""
    if connection.dialect.name == "postgresql":
        key = func.hashtextextended(f"lemonade-serve {name}", 0)
        await connection.execute(select(func.pg_advisory_xact_lock(key)))
    # in SQLite, BEGIN IMMEDIATE has kept out all of them


def _sqlite(path: Path, timeout_s: float) -> Connections:
    """Every commit is fsynced before it returns (WAL with `synchronous=FULL`): it survives a
    power cut too. There is one connection, so what is asked first is answered first.
    """
    # at debug it writes down each statement with its parameters, which are a client's
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # no transactions of the driver's own: it begins none for a SELECT
        connect_args={"isolation_level": None, "timeout": min(BUSY_TIMEOUT_S, timeout_s)},
        pool_size=1,
        max_overflow=0,
        pool_timeout=timeout_s,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "do_connect")
    def find(*_: object) -> None:
        _make(path)

    @event.listens_for(engine.sync_engine, "connect")
    def make_durable(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return Connections(str(path), engine, engine.execution_options(writes=True))


def _make(path: Path) -> None:
    """For its owner only, unless it is there. Raises OSError when it will not do: the driver would
    leave a thread behind. (To close a file that SQLite has open would drop SQLite's locks.)
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _postgresql(url: str, timeout_s: float) -> Connections:
    """Whatever asyncpg understands of a libpq URL works; each statement has the timeout too."""
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise SettingsError("database_url: only postgresql:// URLs are understood")

    async def reach() -> Any:
        import asyncpg  # type: ignore[import-untyped]

        try:
            return await asyncpg.connect(
                f"postgresql://{rest}", timeout=timeout_s, command_timeout=timeout_s
            )
        except ValueError:  # it may quote a piece of the URL, and so of the password
            raise SettingsError("database_url: this is not a valid PostgreSQL URL") from None

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=reach,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    return Connections(_without_secrets(rest), reading, engine)


def _without_secrets(rest: str) -> str:
    place, _, query = rest.partition("?")
    # a password that should have been percent-encoded may look like a query
    return "PostgreSQL" if "@" in query else f"postgresql://{place.rpartition('@')[2]}"
