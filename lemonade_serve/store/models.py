"""The tables. A change here needs a revision in `migrations/versions`, named in `REVISIONS`."""

from __future__ import annotations

import msgspec
from sqlalchemy import Dialect, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from lemonade_serve.errors import StoreUnavailable
from lemonade_serve.settings.parameters import Options

VERSION_TABLE = "lemonade_schema"
"""Alembic's. Not its default name: the database may have other tenants."""

REVISIONS = ("0001",)
"""All there are, the newest last: known without importing Alembic."""


class OptionsText(TypeDecorator[Options]):
    """Options as JSON text, without the fields that are None.

    Not a JSON column: PostgreSQL's jsonb has no U+0000, which a stop string may contain.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Options | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        fields = msgspec.structs.asdict(value)
        return msgspec.json.encode({k: v for k, v in fields.items() if v is not None}).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Options | None:
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=Options)
        except msgspec.DecodeError as error:
            raise StoreUnavailable(f"what is kept of this client is not valid: {error}") from error


class Base(DeclarativeBase):
    """Not advanced-alchemy's, which takes long to import: only for migrating."""

    metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s"})


class ClientParams(Base):
    """What a client keeps for one model, or with `model` "" for all. No row: nothing."""

    __tablename__ = "lemonade_params"

    client: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    options: Mapped[Options] = mapped_column(OptionsText, nullable=False)
