"""Machines that are bought, and each attempt to buy one. Times are seconds since the epoch; `body` holds a JSON object."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

SECONDS: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "machines",
        sa.Column("machine_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("life", sa.Text, nullable=False),
        sa.Column("made_at", SECONDS, nullable=False),
        sa.Column("ended_at", SECONDS),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("machines_alive", "machines", ["region"], sqlite_where=sa.text("life <> 'gone'"))
    op.create_table(
        "attempts",
        sa.Column("launch", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("told_at", SECONDS, nullable=False),  # 0: nobody knows what became of it
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("launch", "number"),
        sqlite_strict=True,
    )
    op.create_index("attempts_told", "attempts", ["region", "told_at"])
