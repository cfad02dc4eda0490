"""What a stopped control plane's database tells: read alone, by a process that does not own it."""

from __future__ import annotations

import json
from pathlib import Path

import apsw

from falplan import clock
from falplan.core.values import Json, JsonObject


def known_operations_in(path: Path, ids: list[str]) -> list[str]:
    """Those of the ids that an operation has; none if there is no database, or none that can be read."""
    try:
        connection = _open(path)
        try:
            sql = "select operation from operations where operation in (select value from json_each(?))"
            return [str(row[0]) for row in connection.execute(sql, (json.dumps(ids),))]
        finally:
            connection.close()
    except apsw.Error:
        return []


def _open(path: Path) -> apsw.Connection:
    connection = apsw.Connection(f"file:{path}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(1000)
    return connection


def unfinished_in(path: Path, most: int = 20) -> dict[str, JsonObject]:
    """endpoint -> its unfinished requests: `{"total": …, "oldest": [{"request_id", "status", "created_at"}]}`.

    Empty if there is no database, or none that can be read: nothing is decided by it.
    """
    found: dict[str, list[JsonObject]] = {}
    try:
        connection = _open(path)
        try:
            rows = connection.execute(
                "select endpoint, request_id, status, created_at from requests where status <> 'COMPLETED' order by seq"
            )
            for endpoint, request_id, status, at in rows:
                known = found.setdefault(str(endpoint), [])
                known.append(
                    {"request_id": request_id, "status": status, "created_at": clock.timestamp(float(str(at)))}
                )
        finally:
            connection.close()
    except apsw.Error:
        return {}
    return {endpoint: {"total": len(r), "oldest": list[Json](r[:most])} for endpoint, r in found.items()}


def secrets_in(path: Path) -> dict[str, JsonObject]:
    """address -> {"version"} of the secrets that it keeps, their newest. Empty if there is no database, or none that can be read."""
    try:
        connection = _open(path)
        try:
            rows = connection.execute("select environment, name, version from secrets")
            return {f"secret.{environment}.{name}": {"version": version} for environment, name, version in rows}
        finally:
            connection.close()
    except apsw.Error:
        return {}
