"""The tables of a store of state in PostgreSQL, and every statement that touches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.sql import Composed

RFC3339 = """'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'"""

MAKE = ("one_maker", "make_schema", "make_state", "make_lock", "make_journal", "make_backup")
"""Statements that make the tables, in order, inside one transaction."""

_STATEMENTS = {
    "tables": "SELECT to_regclass({backup_text}) IS NOT NULL",
    "one_maker": "SELECT pg_advisory_xact_lock(hashtextextended('falplan state tables', 0))",
    "make_schema": "CREATE SCHEMA IF NOT EXISTS {schema}",
    "make_state": """CREATE TABLE IF NOT EXISTS {state} (
        name text PRIMARY KEY, version bigint NOT NULL, content bytea NOT NULL, saved_at timestamptz NOT NULL DEFAULT now())""",
    "make_lock": """CREATE TABLE IF NOT EXISTS {lock} (
        name text PRIMARY KEY, lock_id text, holder text, heartbeat timestamptz, seconds double precision)""",
    "make_journal": """CREATE TABLE IF NOT EXISTS {journal} (
        name text, lineage text, serial bigint, seq bigint, record bytea NOT NULL, PRIMARY KEY (name, lineage, serial, seq))""",
    "make_backup": """CREATE TABLE IF NOT EXISTS {backup} (
        name text, file text, content bytea NOT NULL, saved_at timestamptz NOT NULL, PRIMARY KEY (name, file))""",
    # The lock. Its advisory lock is named after its id: a session that can have it shows that the holder's session is gone.
    "lock_row": "INSERT INTO {lock} (name) VALUES (%(name)s) ON CONFLICT DO NOTHING",
    "look": "SELECT lock_id, holder, to_char(heartbeat AT TIME ZONE 'UTC', {format}), "
    "heartbeat < clock_timestamp() - make_interval(secs => seconds) FROM {lock} WHERE name = %(name)s FOR UPDATE",
    "who": "SELECT lock_id, holder, to_char(heartbeat AT TIME ZONE 'UTC', {format}) FROM {lock} WHERE name = %(name)s",
    "dead": "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%(lock)s, 0))",
    "take": """WITH alive AS MATERIALIZED (SELECT pg_advisory_lock(hashtextextended(%(lock)s, 0)))
        UPDATE {lock} SET lock_id = %(lock)s, holder = %(holder)s, heartbeat = clock_timestamp(), seconds = %(seconds)s
        FROM alive WHERE name = %(name)s""",
    "beat": "UPDATE {lock} SET heartbeat = clock_timestamp() WHERE name = %(name)s AND lock_id = %(lock)s",
    "give_back": "UPDATE {lock} SET lock_id = NULL, holder = NULL WHERE name = %(name)s AND lock_id = %(lock)s",
    # Writes. FOR SHARE keeps the lock row as it is until the write is committed; a taker waits for that, and then sees what was written.
    "ours": "SELECT 1 FROM {lock} WHERE name = %(name)s AND lock_id = %(lock)s FOR SHARE",
    "append": """WITH ours AS MATERIALIZED (SELECT 1 FROM {lock} WHERE name = %(name)s AND lock_id = %(lock)s FOR SHARE)
        INSERT INTO {journal} (name, lineage, serial, seq, record)
        SELECT %(name)s, %(lineage)s, %(serial)s, r.seq, r.record
        FROM unnest(%(seqs)s::bigint[], %(records)s::bytea[]) AS r(seq, record), ours""",
    "first": "INSERT INTO {state} (name, version, content) VALUES (%(name)s, 1, %(content)s) ON CONFLICT DO NOTHING RETURNING version",
    "next": """UPDATE {state} SET content = %(content)s, version = version + 1, saved_at = now()
        WHERE name = %(name)s AND version = %(version)s RETURNING version""",
    "keep": """INSERT INTO {backup} (name, file, content, saved_at)
        SELECT name, %(file)s, content, saved_at FROM {state} WHERE name = %(name)s AND version = %(version)s ON CONFLICT DO NOTHING""",
    "prune": """DELETE FROM {backup} WHERE name = %(name)s AND file LIKE 'state.%%' AND file NOT IN (
        SELECT file FROM {backup} WHERE name = %(name)s AND file LIKE 'state.%%' ORDER BY file DESC LIMIT %(most)s)""",
    "drop": "DELETE FROM {journal} WHERE name = %(name)s AND lineage = %(lineage)s AND serial <= %(serial)s",
    # Reads.
    "read": "SELECT content, version FROM {state} WHERE name = %(name)s",
    "remains": """SELECT 'a journal' FROM {journal} WHERE name = %(name)s
        UNION ALL SELECT 'a backup' FROM {backup} WHERE name = %(name)s LIMIT 1""",
    "journal": """SELECT seq, record FROM {journal}
        WHERE name = %(name)s AND lineage = %(lineage)s AND serial = %(serial)s ORDER BY seq""",
    "backups": """SELECT file, length(content), to_char(saved_at AT TIME ZONE 'UTC', {format}) FROM {backup}
        WHERE name = %(name)s ORDER BY file DESC""",
    "backup": "SELECT content FROM {backup} WHERE name = %(name)s AND file = %(file)s",
}


def statements(schema: str, table: str) -> dict[str, Composed]:
    """Every statement by name, with quoted names of the tables."""
    from psycopg import sql

    kinds = {"state": table, "lock": f"{table}_lock", "journal": f"{table}_journal", "backup": f"{table}_backup"}
    names: dict[str, sql.Composable] = {kind: sql.Identifier(schema, name) for kind, name in kinds.items()}
    names["schema"] = sql.Identifier(schema)
    names["format"] = sql.SQL(RFC3339)
    names["backup_text"] = sql.Literal(f'"{schema}"."{kinds["backup"]}"')
    return {name: sql.SQL(text).format(**names) for name, text in _STATEMENTS.items()}
