"""What the controller owns: apps, their revisions, runners, rollouts, operations and events.

Times are seconds since the epoch. JSON columns hold objects written by falplan.core.values.canonical.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SECONDS: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
SEQUENCE: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _apps()
    _runners()
    _rollouts()
    _operations()
    _events()
    op.create_table(
        "identity",
        sa.Column("name", sa.Text, primary_key=True),  # control_plane_id, lineage, epoch
        sa.Column("value", sa.Text, nullable=False),
        sqlite_strict=True,
    )


def _apps() -> None:
    op.create_table(
        "apps",
        sa.Column("endpoint", sa.Text, primary_key=True),  # owner/name or owner/name--environment
        sa.Column("address", sa.Text, nullable=False),  # app.<environment>.<name>
        sa.Column("revision", sa.Text),  # what the alias points to; null before the first rollout is done
        sa.Column("inputs", sa.Text, nullable=False),  # the inputs that were applied, as in the spec's resource
        sa.Column("settings", sa.Text, nullable=False),  # runtime settings in force
        sa.Column("deleting", sa.Text),  # the operation that removes the app, null otherwise
        sa.Column("failures", sa.Integer, nullable=False, server_default=sa.text("0")),  # failed starts in a row
        sa.Column("launch_after", SECONDS, nullable=False, server_default=sa.text("0")),  # end of the crash back-off
        sqlite_strict=True,
    )
    op.create_table(
        "revisions",
        sa.Column("endpoint", sa.Text, primary_key=True, nullable=False),
        sa.Column("revision", sa.Text, primary_key=True, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),  # everything that a runner needs, immutable
        sa.Column("created_at", SECONDS, nullable=False),
        sqlite_strict=True,
    )


def _runners() -> None:
    op.create_table(
        "runners",
        sa.Column("runner_id", sa.Text, primary_key=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("machine_id", sa.Text, nullable=False),
        sa.Column("placement", sa.Text, nullable=False),  # machine type, vcpu, ram, gpus, and why it is there
        sa.Column("created_at", SECONDS, nullable=False),
        sa.Column("ready_at", SECONDS),
        sa.Column("ended_at", SECONDS),
        sa.Column("because", sa.Text, nullable=False, server_default=""),  # why it was launched; later why it ended
        sa.Column("address", sa.Text, nullable=False, server_default=""),  # where it listens, once ready
        sqlite_strict=True,
    )
    alive, ended = sa.text("state <> 'TERMINATED'"), sa.text("state = 'TERMINATED'")
    op.create_index("runners_alive", "runners", ["endpoint"], sqlite_where=alive, postgresql_where=alive)
    op.create_index("runners_ended", "runners", ["ended_at"], sqlite_where=ended, postgresql_where=ended)


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("endpoint", sa.Text, primary_key=True),  # the newest rollout of each app
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("runner_id", sa.Text),
        sa.Column("because", sa.Text, nullable=False, server_default=""),
        sa.Column("inputs", sa.Text, nullable=False),  # what the app's inputs and settings become
        sa.Column("settings", sa.Text, nullable=False),  # when the alias moves
        sqlite_strict=True,
    )


def _operations() -> None:
    op.create_table(
        "operations",
        sa.Column("operation", sa.Text, primary_key=True),  # from lineage, address and generation: once each
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("body_digest", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),  # running, done, failed
        sa.Column("outcome", sa.Text, nullable=False, server_default="{}"),
        sa.Column("created_at", SECONDS, nullable=False),
        sa.Column("ended_at", SECONDS),
        sqlite_strict=True,
    )
    running = sa.text("status = 'running'")
    op.create_index("operations_open", "operations", ["operation"], sqlite_where=running, postgresql_where=running)


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("at", SECONDS, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False, server_default="{}"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("events_subject", "events", ["subject", "seq"])
