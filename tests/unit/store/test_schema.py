"""The migrations make what the models say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from lemonade_serve.errors import SettingsError
from lemonade_serve.store import schema
from lemonade_serve.store.connections import Connections, connect
from lemonade_serve.store.models import REVISIONS
from tests.fakes import asynchronous

OPEN = """
import asyncio, sys
from pathlib import Path
from lemonade_serve.store.database import DatabaseParamsStore

async def open_it():
    async with DatabaseParamsStore.open(Path(sys.argv[1]), max_clients=1, timeout_s=60):
        pass

asyncio.run(open_it())
print({"alembic", "advanced_alchemy"} & set(sys.modules) or "without")
"""


async def on(path: Path, work: Callable[[Connection, Connections], object]) -> None:
    connections = connect(path, timeout_s=5)
    async with connections.writing.begin() as connection:
        await connection.run_sync(work, connections)
    await connections.writing.dispose()


@asynchronous
async def test_the_migrations_make_the_models(tmp_path: Path) -> None:
    path = tmp_path / "lemonade.db"
    await schema.migrate(path)
    await on(path, lambda *where: schema.alembic_commands(*where).check())


@asynchronous
async def test_every_revision_is_known_in_its_order(tmp_path: Path) -> None:
    def compare(connection: Connection, connections: Connections) -> None:
        config = schema.alembic_commands(connection, connections).config
        revisions = ScriptDirectory.from_config(config).walk_revisions()
        assert [script.revision for script in revisions] == list(reversed(REVISIONS))

    await on(tmp_path / "lemonade.db", compare)


@asynchronous
async def test_the_way_back_leaves_nothing(tmp_path: Path) -> None:
    def take_back(connection: Connection, connections: Connections) -> None:
        schema.alembic_commands(connection, connections).downgrade("base")
        assert inspect(connection).get_table_names() == ["lemonade_schema"]

    path = tmp_path / "lemonade.db"
    await schema.migrate(path)
    await on(path, take_back)
    await schema.migrate(path)
    await on(path, lambda *where: schema.alembic_commands(*where).check())


@asynchronous
async def test_a_write_to_sqlite_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    connections = connect(tmp_path / "lemonade.db", timeout_s=5)
    async with connections.reading.connect() as connection:
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("busy_timeout", 2000)):
            got = await connection.exec_driver_sql(f"PRAGMA {pragma}")
            assert got.scalar() == value
    await connections.writing.dispose()


@pytest.mark.parametrize("url", ["mysql://eve:sesame@host/db", "sesame", "sqlite:///sesame"])
def test_another_kind_of_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="only postgresql://") as raised:
        connect(url, timeout_s=5)
    assert "sesame" not in raised.value.message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://eve:sesame/3@host/db",
        "postgresql://eve@host:sesame/db",
        "postgresql://eve:x@host/db?sslmode=sesame",
    ],
)
@asynchronous
async def test_a_url_that_makes_no_sense_is_not_shown(url: str) -> None:
    connections = connect(url, timeout_s=5)
    with pytest.raises(SettingsError, match="not a valid PostgreSQL URL") as raised:
        await schema.is_current(connections)
    assert "sesame" not in raised.value.message
    await connections.writing.dispose()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgres://eve:sesame@host:5433/db?sslmode=require", "postgresql://host:5433/db"),
        ("postgresql:///db?host=/run/postgresql&password=sesame", "postgresql:///db"),
        ("postgresql://eve:?sesame@host/db", "PostgreSQL"),
        ("postgresql:///db?password=@sesame", "PostgreSQL"),
        ("postgresql://eve:/se@same@host/db", "postgresql://host/db"),
    ],
)
def test_a_place_is_named_without_its_password(url: str, place: str) -> None:
    assert connect(url, timeout_s=5).place == place


def test_what_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(tmp_path / "lemonade.db")]
    opened = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "12"]
    first, second = (run.stdout.splitlines()[-1] for run in opened)
    assert "alembic" in first
    assert second == "without"
