"""The spec's `state:`, with what its backend needs. Asks no backend anything."""

from __future__ import annotations

from falplan.core.spec.codes import Code
from falplan.core.spec.models import State
from falplan.core.spec.tree import Map, Node
from falplan.core.values import Json
from falplan.stores.spec.findings import Findings

KEYS = {
    "bucket": "s3",
    "key": "s3",
    "region": "s3",
    "endpoint_url": "s3",
    "profile": "s3",
    "dsn": "postgres",
    "table": "postgres",
}
"""Key -> the one backend that it goes with."""
TABLE = "falplan.state"


def state_section(model: State, tree: Node | None, project: str, findings: Findings) -> dict[str, Json]:
    """What is needed to open the state: `backend`, `path`, `encryption` and the backend's own keys, defaults filled in."""
    given: dict[str, Json] = model.model_dump(exclude_none=True)
    keys = tree.keys_at if isinstance(tree, Map) else {}
    for name, backend in KEYS.items():
        if name in given and backend != model.backend:
            message = f"`{name}` goes with `backend: {backend}`"
            findings.add(Code.CONFLICT, message, keys.get(name), hint=f"remove `{name}`, or write `backend: {backend}`")
    if model.backend == "s3":
        if model.bucket is None:
            findings.add(Code.MISSING, "`backend: s3` needs `bucket`", keys.get("backend"), hint="add `bucket:`")
        given.setdefault("key", f"falplan/{project}/state.json")
    if model.backend == "postgres":
        given.setdefault("table", TABLE)
        if isinstance(model.dsn, str) and isinstance(tree, Map):
            _check_dsn(model.dsn, tree["dsn"], findings)
    return given


def _check_dsn(dsn: str, place: Node, findings: Findings) -> None:
    from falplan.stores.state.postgres_client import parameters

    try:
        known = parameters(dsn)
    except ValueError:
        hint = "such as host=db.example.com dbname=falplan user=falplan, or postgresql://falplan@db.example.com/falplan"
        findings.add(Code.RANGE, "not a connection string of PostgreSQL", place, hint=hint)
        return
    if any("password" in name for name in known):
        hint = "set PGPASSWORD, or keep it in ~/.pgpass; or put the whole string into a variable: dsn: {env: NAME}"
        findings.add(Code.LITERAL_SECRET, "a password may not stand in the spec", place, hint=hint)
