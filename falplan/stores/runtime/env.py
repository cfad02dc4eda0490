"""Alembic's door: runs the versions on the connection that `migrations` opened. Alembic executes this file; nothing imports it."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    on_version_apply=context.config.attributes["on_version_apply"],
    transactional_ddl=True,  # SQLite has it, though its driver used to commit before DDL: `migrations` sees to that
    transaction_per_migration=True,  # each step together with its number, or neither
)
with context.begin_transaction():
    context.run_migrations()
