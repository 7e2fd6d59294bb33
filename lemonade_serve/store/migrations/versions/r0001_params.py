"""Clients' parameters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "lemonade_params",
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("client", "model", name="pk_lemonade_params"),
    )


def downgrade() -> None:
    op.drop_table("lemonade_params")
