"""Which schema a database has, and bringing it to ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, String, column, inspect, select, table

from lemonade_serve.errors import SettingsError
from lemonade_serve.store.connections import Connections, connect, lock
from lemonade_serve.store.models import REVISIONS, VERSION_TABLE

if TYPE_CHECKING:
    from advanced_alchemy.alembic.commands import AlembicCommands

MIGRATION_TIMEOUT_S = 60.0
"""For each statement of a migration, and for waiting until another daemon has done it."""

_SCRIPTS = Path(__file__).with_name("migrations")

log = structlog.get_logger()


async def is_current(connections: Connections) -> bool:
    """Whether the schema is ours already."""
    async with connections.reading.connect() as connection:
        return await connection.run_sync(_revision) == REVISIONS[-1]


async def migrate(where: Path | str) -> None:
    """Bring the schema to ours, all at once or not at all; of several daemons that do, one does.

    Raises SettingsError when it is newer.
    """
    connections = connect(where, timeout_s=MIGRATION_TIMEOUT_S)
    try:
        async with connections.writing.begin() as connection:
            await lock(connection, "schema")
            await connection.run_sync(_migrate, connections)
    finally:
        await connections.writing.dispose()


def alembic_commands(connection: Connection, connections: Connections) -> AlembicCommands:
    """Alembic, on a transaction that has begun. Importing it takes long: only for migrating."""
    from advanced_alchemy.alembic.commands import AlembicCommands
    from advanced_alchemy.config import AlembicAsyncConfig, SQLAlchemyAsyncConfig

    commands = AlembicCommands(
        SQLAlchemyAsyncConfig(
            engine_instance=connections.writing,
            alembic_config=AlembicAsyncConfig(
                script_location=str(_SCRIPTS), version_table_name=VERSION_TABLE
            ),
        )
    )
    commands.config.attributes["connection"] = connection
    return commands


def _migrate(connection: Connection, connections: Connections) -> None:
    revision = _revision(connection)
    if revision == REVISIONS[-1]:
        return
    if revision is not None and revision not in REVISIONS:
        raise SettingsError(
            f"{connections.place} was made by a newer lemonade-serve; "
            "upgrade, or name another state directory or database"
        )
    alembic_commands(connection, connections).upgrade()
    log.info("schema_migrated", place=connections.place, revision=REVISIONS[-1])


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = select(column("version_num", String)).select_from(table(VERSION_TABLE))
    return connection.execute(version).scalar_one_or_none()
