"""What was seen of everything that a plan touches, to tell at apply whether the world moved since. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from falplan.core.diff import ABSENT, Absent, Difference, differences
from falplan.core.plan import Action, Plan
from falplan.core.resources import GATEWAY, ResourceType, type_of
from falplan.core.saved_plan import Facts
from falplan.core.state import State
from falplan.core.values import Json, JsonObject, digest
from falplan.engine.observe import Observed


def touched(plan: Plan) -> list[str]:
    """What is changed, what that needs, and the gateway that does it; sorted."""
    found = {GATEWAY} if plan.after else set()
    for address, change in plan.changes.items():
        if change.action is not Action.NOOP:
            found |= {address, *change.dependencies}
    return sorted(found)


def facts(observed: Observed, plan: Plan) -> dict[str, dict[str, str]]:
    """address -> what was seen of it. Nothing of what comes and goes by itself: runners, requests, starts that failed."""
    return {address: _of(address, observed) for address in touched(plan)}


def _of(address: str, observed: Observed) -> dict[str, str]:
    seen, kind = observed.seen.get(address), type_of(address)
    found = {"presence": seen.presence.value if seen else "not recorded"}
    if seen:
        found["inputs"] = _digest(seen.inputs)
    if kind is ResourceType.GATEWAY and observed.status:
        found |= {"id": str(observed.status["id"]), "epoch": str(observed.status["epoch"])}
    if address in observed.looked.versions:
        found["version"] = observed.looked.versions[address]
    app, secret = observed.apps.get(address), observed.secrets.get(address)
    if app is not None:
        found |= {"revision": str(app["revision"]), "settings": _digest(app["settings"])}
        found |= {"inputs": _digest(app["inputs"]), "deleting": str(app["deleting"])}
    if secret is not None:
        found |= {"version": str(secret["version"]), "versions": _digest(sorted(secret["versions"]))}
    return found


def _digest(value: Json | Mapping[str, Json] | list[str]) -> str:
    return digest(cast("Json", value))[:32]


def moved(then: Facts, plan: Plan, observed: Observed, state: State) -> list[str]:
    """What is not as it was when the plan was made, in sentences, by address. `state` is the one that the plan was made from."""
    now = facts(observed, plan)
    found = []
    for address in sorted(then.keys() | now.keys()):
        before, after = then.get(address, {}), now.get(address, {})
        differ = [n for n in sorted(before.keys() | after.keys()) if before.get(n) != after.get(n)]
        if differ:
            changed = _inputs(address, plan, observed, state) if DIGESTS & set(differ) else []
            told = [n for n in differ if not changed or n not in DIGESTS]
            if "presence" in differ:
                told, changed = ["presence"], []  # the rest is not there, or came with it
            found.append(f"{address}: {', '.join([*(_fact(n, before, after) for n in told), *changed])}")
    return found


PLAIN = frozenset({"presence", "id", "epoch", "revision", "version", "deleting"})
"""Facts that are shown as they are; of the others there is a digest alone."""

DIGESTS = frozenset({"inputs", "settings"})
"""Facts whose values the plan knows: which of them differ is told in their place."""

SHORT = 40
"""Characters of a value that is shown; of a longer one it is said that it differs."""


def _fact(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if name in PLAIN:
        return f"{name} was {before.get(name, '(none)')}, is {after.get(name, '(none)')}"
    return f"other {name}"


def _inputs(address: str, plan: Plan, observed: Observed, state: State) -> list[str]:
    """Which values differ from those that the plan was made with, from what to what, as far as both are known."""
    change, recorded, seen = plan.changes.get(address), state.resources.get(address), observed.seen.get(address)
    if change is None or change.before is None or recorded is None or seen is None:
        return []
    live: JsonObject = {**recorded.inputs, **seen.inputs}
    return [_value(d) for d in differences(change.before, live)]


def _value(d: Difference) -> str:
    name, before, after = ".".join(d.path), _shown(d.before), _shown(d.after)
    return f"{name} was {before}, is {after}" if max(len(before), len(after)) <= SHORT else f"{name} differs"


def _shown(value: Json | Absent) -> str:
    return "(none)" if value is ABSENT else json.dumps(value, ensure_ascii=False)
