"""An apply as events: JSON objects in the shape of Terraform's machine-readable UI, with more beside it. Values in, objects out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from falplan import __version__
from falplan.core.errors import FalplanError
from falplan.core.outcome import Fate, Outcome, tally
from falplan.core.plan import Action, Change, Drift, Plan, Presence
from falplan.core.resources import type_of
from falplan.core.state import State
from falplan.core.values import Json, JsonObject
from falplan.views import progress

UI_VERSION = "1.2"
"""Of the shape that is Terraform's."""

EVENTS_VERSION = "1.0"
"""Of the stream as a whole: the first number grows when something that was there changes its meaning or goes."""

ACTIONS = {
    Action.CREATE: "create",
    Action.UPDATE: "update",
    Action.REPLACE: "replace",
    Action.REPLACE_CREATE_FIRST: "replace",
    Action.DELETE: "delete",
    Action.FORGET: "remove",
    Action.READ: "read",
    Action.NOOP: "noop",
}
"""A plan's action -> what events call it, as Terraform does."""


def line(event: JsonObject, *, timestamp: str, sequence: int) -> str:
    """One line of the stream, without its end. `timestamp` is RFC 3339; `sequence` grows with each line."""
    return json.dumps({**event, "@timestamp": timestamp, "sequence": sequence}, ensure_ascii=False)


def version() -> JsonObject:
    """The first event."""
    more: JsonObject = {"falplan": __version__, "terraform": "1.11.4", "ui": UI_VERSION, "events": EVENTS_VERSION}
    return _event("version", f"falplan {__version__}", **more)


def plan_events(plan: Plan) -> list[JsonObject]:
    """What was found to differ and what is planned, each by address, then the plan's summary."""
    found = [_drift(plan.drift[a]) for a in sorted(plan.drift)]
    changes = [plan.changes[a] for a in sorted(plan.changes)]
    found += [_planned(c) for c in changes if c.action is not Action.NOOP or c.previous_address]
    actions = [c.action for c in changes]
    numbers = _numbers(actions, sum(bool(c.importing) for c in changes))
    text = f"Plan: {numbers['add']} to add, {numbers['change']} to change, {numbers['remove']} to destroy."
    return [*found, _event("change_summary", text, changes={**numbers, "operation": "plan"})]


def apply_start(change: Change) -> JsonObject:
    return _hook("apply_start", progress.started(change.address, change.action), change)


def apply_progress(change: Change, elapsed: float, text: str = "") -> JsonObject:
    """A sign of life; `text` is what the operation says of itself."""
    message = progress.said(change.address, text) if text else progress.still(change.address, change.action, elapsed)
    more: JsonObject = {"elapsed_seconds": int(elapsed), **({"text": text} if text else {})}
    return _hook("apply_progress", message, change, **more)


def apply_complete(change: Change, elapsed: float) -> JsonObject:
    message = progress.complete(change.address, change.action, elapsed)
    return _hook("apply_complete", message, change, elapsed_seconds=int(elapsed))


def apply_errored(change: Change, elapsed: float, because: str) -> JsonObject:
    message = progress.failed(change.address, change.action, elapsed, because)
    event = _hook("apply_errored", message, change, elapsed_seconds=int(elapsed), because=because)
    return {**event, "@level": "error"}


def apply_skipped(change: Change, outcome: Outcome) -> JsonObject:
    """An operation that was never begun, because of one that failed: Terraform tells nothing of those."""
    because = progress.because_of(outcome.blamed)
    message = progress.skipped(change.address, because)
    return _hook("apply_skipped", message, change, because=because, failed=list(outcome.blamed))


def diagnostic(error: FalplanError, address: str = "") -> JsonObject:
    """An error as it is told to people."""
    body: JsonObject = {"severity": "error", "summary": error.summary, "detail": error.detail}
    if address:
        body["address"] = address
    return {**_event("diagnostic", f"Error: {error.summary}", diagnostic=body), "@level": "error"}


def outputs(state: State) -> JsonObject:
    """What callers need afterwards: the gateway's URL, and each app's endpoint by its address."""
    gateway = state.resources.get("gateway")
    url = str(gateway.outputs.get("url", "")) if gateway else ""
    found: JsonObject = {"gateway": _output(url)} if url else {}
    for address in sorted(state.resources):
        endpoint = state.resources[address].outputs.get("endpoint")
        if address.startswith("app.") and endpoint and url:
            found[address] = _output(f"{url}/run/{endpoint}")
    return _event("outputs", f"Outputs: {len(found)}", outputs=found)


def final_summary(
    plan: Plan | None, ended: Sequence[Outcome], *, destroys: bool, saved: bool, complete: bool
) -> JsonObject:
    """The last event, whatever happened: how many operations had which end, in all and by action, and the addresses of each.

    `complete`: everything that was planned is done, and saved. `plan` is None if there was none yet.
    """
    verb = progress.DESTROY if destroys else progress.APPLY
    imported = sum(bool(c.importing) for c in plan.changes.values()) if plan and complete else 0
    numbers = _numbers([o.action for o in ended if o.fate is Fate.DONE], imported)
    if complete and plan:
        message = progress.complete_line(verb, plan)
    else:
        message = progress.incomplete(verb, ended).partition("\n")[0]
    fates: JsonObject = {fate.value: count for fate, count in tally(ended).items()}
    actions = {action: _by_action(ended, action) for action in sorted({ACTIONS[o.action] for o in ended})}
    addresses: JsonObject = {f.value: [o.address for o in ended if o.fate is f] for f in Fate}
    own: JsonObject = {
        "counts": fates,
        "actions": dict[str, Json](actions),
        "addresses": addresses,
        "state_saved": saved,
        "complete": complete,
    }
    changes: JsonObject = {**numbers, "operation": "destroy" if destroys else "apply"}
    return {
        **_event("change_summary", message, changes=changes, falplan=own),
        "@level": "info" if complete else "error",
    }


def _by_action(ended: Iterable[Outcome], action: str) -> JsonObject:
    return {fate.value: count for fate, count in tally(o for o in ended if ACTIONS[o.action] == action).items()}


def _numbers(actions: Sequence[Action], imported: int) -> dict[str, Json]:
    replaced = sum(a in (Action.REPLACE, Action.REPLACE_CREATE_FIRST) for a in actions)
    return {
        "add": actions.count(Action.CREATE) + replaced,
        "change": actions.count(Action.UPDATE),
        "import": imported,
        "remove": actions.count(Action.DELETE) + replaced,
    }


def _planned(change: Change) -> JsonObject:
    action = "move" if change.action is Action.NOOP else ACTIONS[change.action]
    body: JsonObject = {"resource": _resource(change.address), "action": action, "because": change.because}
    if change.reason:
        body["reason"] = change.reason.value
    if change.previous_address:
        body["previous_resource"] = _resource(change.previous_address)
    if change.importing:
        body["importing"] = {"id": change.importing}
    return _event("planned_change", f"{change.address}: Plan to {action}", change=body)


def _drift(drift: Drift) -> JsonObject:
    action = "delete" if drift.presence is Presence.ABSENT else "update"
    body: JsonObject = {"resource": _resource(drift.address), "action": action, "because": drift.because}
    return _event("resource_drift", f"{drift.address}: Drift detected ({action})", change=body)


def _hook(kind: str, message: str, change: Change, **more: Json | Sequence[str]) -> JsonObject:
    own = cast("JsonObject", more)
    hook: JsonObject = {"resource": _resource(change.address), "action": ACTIONS[change.action], **own}
    return _event(kind, message, hook=hook)


def _resource(address: str) -> JsonObject:
    kind = f"falplan_{type_of(address).value}"
    return {
        "addr": address,
        "module": "",
        "resource": address,
        "implied_provider": "falplan",
        "resource_type": kind,
        "resource_name": address.partition(".")[2] or address,
        "resource_key": None,
    }


def _output(value: str) -> JsonObject:
    return {"sensitive": False, "type": "string", "value": value}


def _event(kind: str, message: str, **more: Json | Mapping[str, Json]) -> JsonObject:
    return {"@level": "info", "@message": message, "@module": "falplan.ui", "type": kind, **cast("JsonObject", more)}
