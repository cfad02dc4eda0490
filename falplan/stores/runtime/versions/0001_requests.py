"""What the gateway owns: requests with their payloads and results, idempotency keys, callers' keys.

Times are seconds since the epoch. Payloads have tables of their own, so that a change of state rewrites a short row.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SECONDS: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
SEQUENCE: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _requests()
    _payloads()
    _callers()


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),  # order of acceptance
        sa.Column("request_id", sa.Text, nullable=False, unique=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("sub_path", sa.Text, nullable=False),  # '' or '/sub/path', canonical
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),  # JSON object: what goes to the runner
        sa.Column("priority", sa.Integer, nullable=False),  # 0 normal, 1 low
        sa.Column("hint", sa.Text),
        sa.Column("no_retry", sa.Integer, nullable=False),  # 1: the caller asked for no second attempt
        sa.Column("created_at", SECONDS, nullable=False),
        sa.Column("start_by", SECONDS),  # no attempt begins later; null: no limit
        sa.Column("status", sa.Text, nullable=False),  # IN_QUEUE, IN_PROGRESS, COMPLETED
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),  # begun so far
        sa.Column("attempt_token", sa.Text),  # of the attempt that may complete; null while none runs
        sa.Column(
            "runners", sa.Text, nullable=False, server_default="[]"
        ),  # JSON list of those tried, the last one last
        sa.Column("started_at", SECONDS),  # of the last attempt
        sa.Column("ended_at", SECONDS),
        sa.Column("expires_at", SECONDS),  # a finished request is forgotten after this
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("inference_time", SECONDS),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    unfinished, finished = sa.text("status <> 'COMPLETED'"), sa.text("status = 'COMPLETED'")
    op.create_index("requests_unfinished", "requests", ["seq"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_index("requests_expiring", "requests", ["expires_at"], sqlite_where=finished, postgresql_where=finished)


def _payloads() -> None:
    op.create_table(
        "request_bodies", _of_request(), sa.Column("body", sa.LargeBinary, nullable=False), sqlite_strict=True
    )
    op.create_table(
        "results",
        _of_request(),
        sa.Column("headers", sa.Text, nullable=False),  # JSON object, lower-case names
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )


def _of_request() -> sa.Column[int]:
    owner = sa.ForeignKey("requests.seq", ondelete="CASCADE")
    return sa.Column("seq", SEQUENCE, owner, primary_key=True, autoincrement=False)


def _callers() -> None:
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.Text, primary_key=True, nullable=False),  # key id, '' for callers without one
        sa.Column("name", sa.Text, primary_key=True, nullable=False),  # the Idempotency-Key header
        sa.Column("digest", sa.Text, nullable=False),  # of what was asked
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("expires_at", SECONDS, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_expiring", "idempotency", ["expires_at"])
    op.create_table(
        "keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),  # SHA-256 of a random 256-bit secret
        sa.Column("scope", sa.Text, nullable=False),  # API, ADMIN
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", SECONDS, nullable=False),
        sa.Column("revoked_at", SECONDS),
        sqlite_strict=True,
    )
