"""A plan in the shape of `terraform show -json`, with falplan's own keys beside it, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

from falplan import __version__
from falplan.core.consequences import Consequence
from falplan.core.diff import ABSENT, Absent
from falplan.core.plan import Action, AttributeChange, Change, Plan
from falplan.core.resources import ResourceType
from falplan.core.spec.resolved import Origin
from falplan.core.values import Json, JsonObject

FORMAT_VERSION = "1.2"
"""Of Terraform's plan representation, which policy tools look at."""


def plan_to_json(plan: Plan, follow: Iterable[Consequence] = ()) -> JsonObject:
    """The plan as one object. Unknown outputs are `true` in `after_unknown`, as Terraform prints them."""
    changes = [plan.changes[a] for a in sorted(plan.changes)]
    return {
        "format_version": FORMAT_VERSION,
        "terraform_version": "1.11.4",
        "falplan": {
            "version": __version__,
            "project": plan.project,
            "lineage": plan.lineage,
            "serial": plan.serial,
            "order": {a: list(before) for a, before in plan.after.items()},
            "unknown": dict(plan.unknown),
            "runners": [
                {
                    "address": c.address,
                    "effect": c.effect.value,
                    "count": c.count,
                    "because": c.because,
                    "where": c.where,
                }
                for c in follow
            ],
        },
        "planned_values": {
            "root_module": {"resources": [_planned(c) for c in changes if c.action is not Action.DELETE]}
        },
        "resource_changes": [_change(c) for c in changes],
        "configuration": {"root_module": {"resources": [_configured(c) for c in changes if c.after is not None]}},
        "complete": not plan.unknown,
        "errored": False,
    }


def _identity(change: Change) -> JsonObject:
    return {
        "address": change.address,
        "mode": "managed",
        "type": f"falplan_{change.type.value}",
        "name": change.address.partition(".")[2] or change.address,
        "provider_name": "falplan",
    }


def _planned(change: Change) -> JsonObject:
    return {**_identity(change), "schema_version": 0, "values": {**(change.after or {}), **_kept(change)}}


def _configured(change: Change) -> JsonObject:
    expressions: JsonObject = {name: {"constant_value": value} for name, value in (change.after or {}).items()}
    return {**_identity(change), "expressions": expressions, "schema_version": 0}


def _kept(change: Change) -> JsonObject:
    return {k: v for k, v in change.outputs.items() if k not in change.unknown}


def _change(change: Change) -> JsonObject:
    return {
        **_identity(change),
        "change": {
            "actions": cast("list[Json]", change.action.terraform),
            "before": change.before,
            "after": change.after,
            "after_unknown": dict.fromkeys(change.unknown, True),
            "before_sensitive": {},
            "after_sensitive": {},
        },
        "falplan": {
            "because": change.because,
            "operation": change.operation,
            "generation": change.generation,
            "unchanged": change.unchanged,
            "dependencies": list(change.dependencies),
            "outputs": change.outputs,
            "secrets": dict(change.secrets),
            "rebuilt": change.rebuilt,
            "attributes": [_attribute(a) for a in change.attributes],
            "drift": [_attribute(a) for a in change.drift],
        },
    }


def _attribute(a: AttributeChange) -> JsonObject:
    body: JsonObject = {"path": list(a.path), "because": a.because, "forces_replacement": a.forces_replacement}
    if a.before is not ABSENT:
        body["before"] = a.before
    if a.after is not ABSENT:
        body["after"] = a.after
    if a.origin is not None:
        body["origin"] = a.origin.value
    return body


def plan_from_json(body: JsonObject) -> Plan:
    """The inverse of `plan_to_json`, less positions.

    Raises:
        KeyError, TypeError, ValueError: it has another shape.
    """
    own: Any = body["falplan"]
    changes = [_read_change(c) for c in cast("list[Any]", body["resource_changes"])]
    return Plan(
        own["project"],
        own["lineage"],
        own["serial"],
        {c.address: c for c in changes},
        {a: tuple(before) for a, before in own["order"].items()},
        dict(own["unknown"]),
    )


def _read_change(body: Any) -> Change:
    change, own = body["change"], body["falplan"]
    return Change(
        body["address"],
        ResourceType(body["type"].removeprefix("falplan_")),
        Action(",".join(change["actions"])),
        own["because"],
        tuple(_read_attribute(a) for a in own["attributes"]),
        tuple(_read_attribute(a) for a in own["drift"]),
        change["before"],
        change["after"],
        own["outputs"],
        tuple(change["after_unknown"]),
        own["unchanged"],
        tuple(own["dependencies"]),
        own["generation"],
        own["operation"],
        secrets=own["secrets"],
        rebuilt=own["rebuilt"],
    )


def _read_attribute(body: Any) -> AttributeChange:
    def side(name: str) -> Json | Literal[Absent.ABSENT]:
        return cast("Json", body[name]) if name in body else ABSENT

    origin = Origin(body["origin"]) if "origin" in body else None
    return AttributeChange(
        tuple(body["path"]), side("before"), side("after"), body["because"], origin, body["forces_replacement"]
    )
