"""Whether the control plane is where the spec wants it: it does not move by itself. Decides alone."""

from __future__ import annotations

from typing import Any

from falplan.core.plan import Presence, Seen
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.host_gateway import place_in
from falplan.engine.provided import pinned
from falplan.engine.reaching import DECLARED_DEAD, recorded_gateway, recorded_way
from falplan.engine.ways import way_of


def moves(state: State, spec: ResolvedSpec, seen: Seen | None) -> str:
    """Why the control plane is not where the spec wants it, and how it gets there; empty if it is, or there is none yet."""
    outputs = recorded_gateway(state)
    way = recorded_way(state)
    if DECLARED_DEAD in outputs or not (outputs or way) or (spec.gateway.get("url") and not way):
        return ""
    at = place_in(way) if way else ""
    wanted = str(spec.gateway.get("host") or "")
    if at == wanted:
        return _moves_there(way, way_of(spec, wanted, pinned(state)), seen) if way else ""
    lives = f"It lives on {at}" if at else f"It lives on {outputs.get('host')}, without `gateway.host`"
    there = f"on {wanted}" if wanted else "on this machine"
    return (
        f"{lives}, and the spec wants it {there}: its queue, keys and certificates would stay behind. "
        "Write `gateway` as it was; or take everything down (`falplan destroy`) and apply anew."
    )


def _moves_there(way: JsonObject, wanted: JsonObject | None, seen: Seen | None) -> str:
    """The same where the host keeps its name: as another user or in another folder it would be another control plane."""
    before, after = _login(way), _login(wanted or {})
    changed = sorted(name for name in ("user", "sudo", "folder") if before.get(name) != after.get(name))
    there = seen is not None and seen.presence in (Presence.PRESENT, Presence.STOPPED, Presence.ROLLED_BACK)
    changed += ["address"] if before.get("address") != after.get("address") and not there else []
    if not changed:
        return ""
    return (
        f"Another {' and '.join(changed)} of {place_in(way)} is another place: its queue, keys and certificates lie in this one. "
        "Write the host as it was; or take everything down (`falplan destroy`) and apply anew."
    )


def _login(way: JsonObject) -> JsonObject:
    """What decides where on which machine things lie."""
    home: Any = way.get("home") or {}
    return {"folder": home.get("folder"), **(home.get("hosts", {}).get(way.get("host")) or {})}
