"""Finds what is to be imported, as the control plane has it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from falplan.core.errors import Refused
from falplan.core.plan import Presence, Seen
from falplan.core.provided import imported_as
from falplan.core.resources import GATEWAY, PROVIDED, ResourceType, type_of
from falplan.core.spec.codes import Code
from falplan.core.spec.declared import Import
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.spec.words import did_you_mean
from falplan.core.state import Recorded, State
from falplan.core.values import JsonObject
from falplan.engine.observe import Observed
from falplan.engine.provided import Provided


def find_imports(imports: Iterable[Import], state: State, observed: Observed) -> dict[str, Recorded]:
    """What each import names, as it would stand in state, by address. Those that state knows already are left out.

    Raises:
        Refused: one does not exist, or can't be imported; nothing was changed.
    """
    wanted = [i for i in imports if i.address not in state.resources]
    if any(type_of(i.address) not in PROVIDED for i in wanted) and observed.client is None:
        because = observed.unreachable or "nothing was applied yet"
        raise Refused("Nothing can be imported", f"The control plane, which would know it, can't be asked: {because}.")
    return {i.address: _found(i, state, observed) for i in wanted}


def _found(wanted: Import, state: State, observed: Observed) -> Recorded:
    kind = type_of(wanted.address)
    if kind is ResourceType.APP:
        return _app(wanted, state, {row["endpoint"]: row for row in observed.apps.values()})
    if kind is ResourceType.SECRET:
        return _secret(wanted, state, observed.secrets)
    if kind in PROVIDED:
        return _provided(wanted, state, observed)[0]
    detail = f"{wanted.address}: a {kind.value} is made by apply. Import the app that uses it."
    raise Refused("It can't be imported", detail)


def _provided(wanted: Import, state: State, observed: Observed) -> tuple[Recorded, Seen]:
    seen = observed.seen.get(wanted.address)
    if seen is not None and seen.presence is Presence.UNKNOWN:
        raise Refused("Nothing can be imported", f"{wanted.address}: {seen.because}.")
    if wanted.address not in observed.looked.imported:
        detail = f"{wanted.address}: the region's provider does not have {wanted.identity!r}."
        raise Refused("There is nothing to import", detail)
    found, own = observed.looked.imported[wanted.address]
    return imported_as(wanted.address, found, observed.provided.declared(wanted.address).inputs, own, state)


def seen_imports(imported: Mapping[str, str], state: State, observed: Observed) -> dict[str, Seen]:
    """How imports of what providers own are seen: without this project's mark, which the same apply gives them."""
    return {
        a: _provided(Import(a, identity), state, observed)[1]
        for a, identity in imported.items()
        if type_of(a) in PROVIDED
    }


def check_provided_refactors(spec: ResolvedSpec, provided: Provided) -> None:
    """Check the entries whose addresses only providers know to be in the spec.

    Raises:
        SpecInvalid: each that is moved or imported to nothing, or moved away or removed although it is there.
    """
    known = {a for place in provided.places.values() for a in place.declared}
    refactors = spec.refactors
    sources = {m.source for m in refactors.moved}
    ends = [*((m.target, m.position) for m in refactors.moved), *((i.address, i.position) for i in refactors.imported)]
    wrong = [
        (Code.REFERENCE, f"{address} is not in the spec", position, did_you_mean(address, known))
        for address, position in ends
        if type_of(address) in PROVIDED and address not in known and address not in sources
    ]
    out = "take it out of the spec, or remove this entry"
    wrong += [
        (Code.CONFLICT, f"{r.address} is still in the spec", r.position, out)
        for r in refactors.removed
        if r.address in known
    ]
    wrong += [
        (Code.CONFLICT, f"{m.source} moved, and is still in the spec", m.position, out)
        for m in refactors.moved
        if m.source in known
    ]
    if wrong:
        from falplan.stores.spec.findings import findings_in

        findings = findings_in(Path(spec.folder), spec.sources)
        for code, message, position, hint in wrong:
            findings.add(code, message, position, hint=hint)
        findings.raise_if_failed()


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
