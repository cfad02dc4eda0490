"""A plan in the shape of `terraform show -json`, with falplan's own keys beside it. `plan_parse` reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

from falplan import __version__
from falplan.core.consequences import Consequence, NoPlace
from falplan.core.diff import ABSENT, Path
from falplan.core.plan import AttributeChange, Change, Drift, OutputChange, Plan, Presence, Reason
from falplan.core.plan_parse import FORMAT, OWN, plan_from_json, report_from_json
from falplan.core.report import Report, Row, Section, Tone
from falplan.core.state import State
from falplan.core.terraform_values import (
    TERRAFORM_VERSION,
    checks_of,
    configuration,
    identity,
    output_changes_of,
    planned_values,
    prior_state,
    sensitive,
)
from falplan.core.values import Json, JsonObject

__all__ = ["plan_from_json", "plan_to_json", "render_plan_json", "report_from_json", "report_to_json"]

FORMAT_VERSION = "1.2"
"""Of Terraform's plan representation, which policy tools look at."""


def render_plan_json(report: Report, *, prior: State | None = None, timestamp: str = "") -> str:
    """The report as one line of ASCII, whatever is in it: no reader takes part of a value for the end of the line."""
    body = report_to_json(report, prior=prior, timestamp=timestamp)
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def plan_to_json(plan: Plan, follow: Iterable[Consequence] = ()) -> JsonObject:
    """A plan alone, as `report_to_json` gives it."""
    return report_to_json(Report(plan, tuple(follow)))


def report_to_json(report: Report, *, prior: State | None = None, timestamp: str = "") -> JsonObject:
    """A plan with everything that it is shown with, as one object.

    `prior` is the state that the plan was made from; with it, `prior_state` is there and drift shows whole resources. `timestamp`
    is RFC 3339, of the moment at which a saved plan was made.

    Raises:
        ValueError: a section has the name of one of falplan's own keys.
    """
    plan = report.plan
    changes = [plan.changes[a] for a in sorted(plan.changes)]
    wrong = _is_wrong(report)
    body: JsonObject = {
        "format_version": FORMAT_VERSION,
        "terraform_version": TERRAFORM_VERSION,
        "falplan": _own(report),
        "planned_values": planned_values(changes, report.sections),
        "resource_drift": [_drift(plan.drift[a], prior) for a in sorted(plan.drift)],
        "resource_changes": [_change(c) for c in changes],
        "relevant_attributes": _relevant(plan),
        "configuration": configuration(changes),
        "checks": checks_of(report.sections),
        "applyable": not (plan.is_empty or plan.blocked or wrong),
        "complete": not (plan.unknown or plan.left_out),
        "errored": wrong,
    }
    outputs = output_changes_of(report.sections)
    if outputs:
        body["output_changes"] = outputs
    if prior is not None:
        body["prior_state"] = prior_state(prior)
    if timestamp:
        body["timestamp"] = timestamp
    return body


def _output(change: OutputChange) -> JsonObject:
    """An output as falplan reads it back; a sensitive value stays out, it is evaluated again after the apply."""
    body: JsonObject = {"action": change.action.value, "unknown": change.unknown, "sensitive": change.sensitive}
    return body if change.sensitive else {**body, "before": change.before, "after": change.after}


def _runners(c: Consequence) -> JsonObject:
    """Runners that follow; where each of several is placed stands in the section `placement`."""
    return {"address": c.address, "effect": c.effect.value, "count": c.count, "because": c.because, "where": c.where}


def _is_wrong(report: Report) -> bool:
    """Whether something stands in the way that no approval helps against."""
    return any(not n.unknown for n in report.no_place) or any(
        r.tone is Tone.ERROR for s in report.sections for r in s.rows
    )


def _own(report: Report) -> JsonObject:
    plan = report.plan
    taken = [s.name for s in report.sections if s.name in OWN]
    if taken:
        raise ValueError(f"a section may not be called {taken[0]!r}: that is one of falplan's own keys")
    return {
        "format": FORMAT,
        "version": __version__,
        "project": plan.project,
        "lineage": plan.lineage,
        "serial": plan.serial,
        "order": {a: list(before) for a, before in plan.after.items()},
        "unknown": dict(plan.unknown),
        "left_out": dict(plan.left_out),
        "refresh_only": plan.refresh_only,
        "hints": list(plan.hints),
        "outputs": {name: _output(change) for name, change in sorted(plan.outputs.items())},
        "runners": [_runners(c) for c in report.follow],
        "no_place": [_missing(n) for n in report.no_place],
        "observed": dict(report.observed),
        "sections": [_section(s) for s in report.sections],
        **{s.name: s.body for s in report.sections},
    }


def _section(section: Section) -> JsonObject:
    return {"name": section.name, "title": section.title, "rows": [_row(r) for r in section.rows]}


def _row(row: Row) -> JsonObject:
    body: JsonObject = {"text": row.text, "tone": row.tone.value, "detail": list(row.detail)}
    return {**body, "label": row.label} if row.label else body


def _change(change: Change) -> JsonObject:
    body: JsonObject = {
        **identity(change.address, change.type.value, change.after or change.before),
        "change": {
            "actions": cast("list[Json]", change.action.terraform),
            "before": change.before,
            "after": change.after,
            "after_unknown": dict.fromkeys(change.unknown, True),
            "before_sensitive": sensitive(change.type, change.before),
            "after_sensitive": sensitive(change.type, change.after),
        },
        "falplan": _own_of_change(change),
    }
    inner = cast("JsonObject", body["change"])
    forced: list[Json] = [list(a.path) for a in change.attributes if a.forces_replacement]
    if forced and change.action.replaces:
        inner["replace_paths"] = forced
    if change.importing:
        inner["importing"] = {"id": change.importing}
    if change.previous_address:
        body["previous_address"] = change.previous_address
    reason = reason_of(change)
    if reason:
        body["action_reason"] = reason.value
    return body


def reason_of(change: Change) -> Reason | None:
    """Terraform's reason of a change; for a replacement that gives none, what follows from its attributes."""
    forced = change.action.replaces and any(a.forces_replacement for a in change.attributes)
    return change.reason or (Reason.CANNOT_UPDATE if forced else None)


def _own_of_change(change: Change) -> JsonObject:
    place = change.position
    return {
        "because": change.because,
        "reason": change.reason.value if change.reason else None,
        "operation": change.operation,
        "generation": change.generation,
        "unchanged": change.unchanged,
        "unknown": list(change.unknown),
        "dependencies": list(change.dependencies),
        "outputs": change.outputs,
        "secrets": dict(change.secrets),
        "rebuilt": change.rebuilt,
        "protected": change.protected,
        "attributes": [_attribute(a) for a in change.attributes],
        "drift": [_attribute(a) for a in change.drift],
        "position": {"file": place.file, "line": place.line, "column": place.column} if place else None,
        **({"leftovers": list[Json](change.leftovers)} if change.leftovers else {}),
        **({"trust": change.trust} if change.trust else {}),
    }


def _missing(missing: NoPlace) -> JsonObject:
    body: JsonObject = {"address": missing.address, "reasons": list(missing.reasons), "advice": missing.advice}
    return {**body, "unknown": True} if missing.unknown else body


def _attribute(a: AttributeChange) -> JsonObject:
    body: JsonObject = {"path": list(a.path), "because": a.because, "forces_replacement": a.forces_replacement}
    if a.before is not ABSENT:
        body["before"] = a.before
    if a.after is not ABSENT:
        body["after"] = a.after
    if a.origin is not None:
        body["origin"] = a.origin.value
    if a.override:
        body["override"] = True
    return body


def _drift(drift: Drift, prior: State | None) -> JsonObject:
    """Recorded and seen, as far as they are known here: whole with the state, else only what differs."""
    recorded = prior.resources.get(drift.address) if prior else None
    before = _with_paths(recorded.inputs if recorded else {}, ((a.path, a.before) for a in drift.attributes))
    gone = drift.presence is Presence.ABSENT
    after = None if gone else _with_paths(before, ((a.path, a.after) for a in drift.attributes))
    return {
        **identity(drift.address, drift.type.value, recorded.inputs if recorded else None),
        "change": {
            "actions": ["delete"] if gone else ["update"],
            "before": before,
            "after": after,
            "after_unknown": {},
            "before_sensitive": sensitive(drift.type, before),
            "after_sensitive": sensitive(drift.type, after),
        },
        "falplan": {
            "presence": drift.presence.value,
            "because": drift.because,
            "attributes": [_attribute(a) for a in drift.attributes],
            "since": drift.since,
            "by": drift.by,
            "ignored": drift.ignored,
        },
    }


def _with_paths(base: JsonObject, values: Iterable[tuple[Path, object]]) -> JsonObject:
    """A copy of `base` in which each path has its value, or nothing where that is absent."""
    result: JsonObject = dict(base)
    for path, value in values:
        if not path:
            continue  # a resource as a whole has no value of its own
        *folders, last = path
        here = result
        for name in folders:
            inside = here.get(name)
            here[name] = dict(inside) if isinstance(inside, dict) else {}
            here = cast("JsonObject", here[name])
        if value is ABSENT:
            here.pop(last, None)
        else:
            here[last] = cast("Json", value)
    return result


def _relevant(plan: Plan) -> list[Json]:
    """Drifted attributes that an action of this plan is about, as Terraform lists them."""
    found: list[Json] = []
    for address, drift in sorted(plan.drift.items()):
        change = plan.changes.get(address)
        touched = {a.path for a in change.attributes} if change and change.action.acts else set()
        found += [{"resource": address, "attribute": list(a.path)} for a in drift.attributes if a.path in touched]
    return found
