"""What a stopped control plane's database tells: read alone, by a process that does not own it."""

from __future__ import annotations

from pathlib import Path

import apsw

from falplan import clock
from falplan.core.values import Json, JsonObject


def unfinished_in(path: Path, most: int = 20) -> dict[str, JsonObject]:
    """endpoint -> its unfinished requests: `{"total": …, "oldest": [{"request_id", "status", "created_at"}]}`.

    Empty if there is no database, or none that can be read: nothing is decided by it.
    """
    found: dict[str, list[JsonObject]] = {}
    try:
        connection = apsw.Connection(f"file:{path}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            connection.set_busy_timeout(1000)
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
