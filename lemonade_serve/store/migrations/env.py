"""Run by Alembic: migrates the connection that it is given, within that one's transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from lemonade_serve.store.models import VERSION_TABLE, ClientParams

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=ClientParams.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
