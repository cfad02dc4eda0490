"""Finds what is to be imported, as the control plane has it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from falplan.core.errors import Refused
from falplan.core.resources import GATEWAY, ResourceType, type_of
from falplan.core.spec.declared import Import
from falplan.core.state import Recorded, State
from falplan.core.values import JsonObject
from falplan.engine.observe import Observed


def find_imports(imports: Iterable[Import], state: State, observed: Observed) -> dict[str, Recorded]:
    """What each import names, as it would stand in state, by address. Those that state knows already are left out.

    Raises:
        Refused: one does not exist, or can't be imported; nothing was changed.
    """
    wanted = [i for i in imports if i.address not in state.resources]
    if wanted and observed.client is None:
        because = observed.unreachable or "nothing was applied yet"
        raise Refused("Nothing can be imported", f"The control plane, which would know it, can't be asked: {because}.")
    return {i.address: _found(i, state, observed) for i in wanted}


def _found(wanted: Import, state: State, observed: Observed) -> Recorded:
    kind = type_of(wanted.address)
    if kind is ResourceType.APP:
        return _app(wanted, state, {row["endpoint"]: row for row in observed.apps.values()})
    if kind is ResourceType.SECRET:
        return _secret(wanted, state, observed.secrets)
    detail = f"{wanted.address}: a {kind.value} is made by apply. Import the app that uses it."
    raise Refused("It can't be imported", detail)


def _app(wanted: Import, state: State, rows: Mapping[str, Any]) -> Recorded:
    row = rows.get(wanted.identity)
    if row is None or row["revision"] is None or row["deleting"]:
        raise _missing(wanted, "an app with the endpoint", rows)
    outputs = {"endpoint": row["endpoint"], "revision": row["revision"]}
    return Recorded(
        wanted.address, ResourceType.APP.value, row["inputs"], outputs, (GATEWAY,), state.generation(wanted.address)
    )


def _secret(wanted: Import, state: State, rows: Mapping[str, Any]) -> Recorded:
    row = rows.get(wanted.address)
    versions = {str(v): v for v in row["versions"]} if row else {}
    if wanted.identity not in versions:
        raise _missing(wanted, "this secret in the version", versions)
    inputs: JsonObject = {"source": {"stored": True}, "version": wanted.identity}
    outputs: JsonObject = {"version": wanted.identity}
    return Recorded(
        wanted.address, ResourceType.SECRET.value, inputs, outputs, (GATEWAY,), state.generation(wanted.address)
    )


def _missing(wanted: Import, what: str, known: Iterable[str]) -> Refused:
    names = sorted(known)
    close = get_close_matches(wanted.identity, names, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"It has {', '.join(names[:5]) or 'none'}."
    detail = f"{wanted.address}: the control plane does not have {what} {wanted.identity!r}. {hint}"
    return Refused("There is nothing to import", detail)
