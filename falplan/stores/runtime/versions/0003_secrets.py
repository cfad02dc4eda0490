"""Secrets: which version is the newest of each, and the versions with their values, encrypted by a key that is not in this file.

Times are seconds since the epoch.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SECONDS: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("environment", sa.Text, primary_key=True, nullable=False),
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("version", sa.Text, nullable=False),  # the newest one
        sa.Column("changed_at", SECONDS, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "secret_versions",
        sa.Column("version", sa.Text, primary_key=True),  # random: it tells nothing of the value
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),  # of the key that it is encrypted by
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),  # AES-256-GCM; environment, name and version go with it
        sa.Column("created_at", SECONDS, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("secret_versions_of", "secret_versions", ["environment", "name"])
