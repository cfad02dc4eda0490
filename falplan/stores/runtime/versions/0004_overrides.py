"""What is overridden of an app and who asked for what: overrides, revisions that can be gone back to, names of askers.

Times are seconds since the epoch. JSON columns hold objects written by falplan.core.values.canonical.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SECONDS: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    _overrides()
    _revisions()
    _askers()


def _overrides() -> None:
    for table in ("apps", "rollouts"):  # a rollout's are what the app's become when the alias moves
        # dotted path of an input, or `revision` -> {"value", "applied", "since", "by"}
        op.add_column(table, sa.Column("overrides", sa.Text, nullable=False, server_default="{}"))


def _revisions() -> None:
    op.add_column("revisions", sa.Column("inputs", sa.Text))  # as it was applied; null: before this column was there
    op.add_column(
        "revisions", sa.Column("served_at", SECONDS)
    )  # when the alias last moved to it; null: never, or unknown
    # Events tell of the last weeks which revisions served; of one that serves now, the app's own row does.
    op.execute(
        "update revisions set served_at = (select max(events.at) from events where events.kind = 'app.switched' "
        "and events.subject = revisions.endpoint and events.message like revisions.revision || ' serves now%')"
    )
    op.execute(
        "update revisions set served_at = coalesce(served_at, created_at), inputs = (select apps.inputs from apps "
        "where apps.endpoint = revisions.endpoint) where exists (select 1 from apps "
        "where apps.endpoint = revisions.endpoint and apps.revision = revisions.revision)"
    )


def _askers() -> None:
    for name in ("key_id", "key_name", "subject"):  # the caller's key, and the address or id of what is changed
        op.add_column("operations", sa.Column(name, sa.Text, nullable=False, server_default=""))
    op.create_index("operations_at", "operations", ["created_at"])
    # Of the newest version: when it became that, and who made it so.
    op.add_column("secrets", sa.Column("since", SECONDS, nullable=False, server_default=sa.text("0")))
    op.add_column("secrets", sa.Column("set_by", sa.Text, nullable=False, server_default=""))
    op.execute("update secrets set since = changed_at")
