"""Reads back what `plan_json` writes. Trusts nothing about who wrote it, and checks no signature."""

from __future__ import annotations

from typing import Any, Literal, cast

from falplan.core.consequences import Consequence, Effect, NoPlace
from falplan.core.diff import ABSENT, Absent
from falplan.core.errors import Position
from falplan.core.plan import Action, AttributeChange, Change, Drift, OutputChange, Plan, Presence, Reason
from falplan.core.report import Report, Row, Section, Tone
from falplan.core.resources import ResourceType
from falplan.core.spec.resolved import Origin
from falplan.core.values import Json, JsonObject

FORMAT = 1
"""Of falplan's own keys in a plan's JSON. A reader refuses a higher one."""

OWN = frozenset(
    {
        "format",
        "version",
        "project",
        "lineage",
        "serial",
        "order",
        "unknown",
        "left_out",
        "refresh_only",
        "hints",
        "outputs",
        "runners",
        "no_place",
        "observed",
        "sections",
    }
)
"""Keys under `falplan` that no section may have."""


def plan_from_json(body: JsonObject) -> Plan:
    """The plan that `report_to_json` wrote, exactly.

    Raises:
        KeyError, TypeError, ValueError: it has another shape, or a newer format.
    """
    own: Any = body["falplan"]
    if own["format"] != FORMAT:
        raise ValueError(f"format {own['format']} of a plan; this falplan reads {FORMAT}")
    changes = [_change(c) for c in cast("list[Any]", body["resource_changes"])]
    drift = [_drift(d) for d in cast("list[Any]", body["resource_drift"])]
    return Plan(
        own["project"],
        own["lineage"],
        own["serial"],
        {c.address: c for c in changes},
        {a: tuple(before) for a, before in own["order"].items()},
        dict(own["unknown"]),
        {d.address: d for d in drift},
        dict(own["left_out"]),
        refresh_only=own["refresh_only"],
        hints=tuple(own["hints"]),
        outputs={name: _output(name, o) for name, o in own["outputs"].items()},
    )


def report_from_json(body: JsonObject) -> Report:
    """The whole report, exactly.

    Raises:
        KeyError, TypeError, ValueError: it has another shape, or a newer format.
    """
    own: Any = body["falplan"]
    return Report(
        plan_from_json(body),
        tuple(Consequence(**{**c, "effect": Effect(c["effect"])}) for c in own["runners"]),
        tuple(
            NoPlace(n["address"], tuple(n["reasons"]), n["advice"], n.get("unknown", False)) for n in own["no_place"]
        ),
        tuple(Section(s["name"], s["title"], _rows(s["rows"]), own[s["name"]]) for s in own["sections"]),
        dict(own["observed"]),
    )


def _rows(rows: Any) -> tuple[Row, ...]:
    return tuple(Row(r["text"], Tone(r["tone"]), tuple(r["detail"]), r.get("label", "")) for r in rows)


def _change(body: Any) -> Change:
    change, own = body["change"], body["falplan"]
    return Change(
        body["address"],
        _type(body),
        Action(",".join(change["actions"])),
        own["because"],
        tuple(_attribute(a) for a in own["attributes"]),
        tuple(_attribute(a) for a in own["drift"]),
        change["before"],
        change["after"],
        own["outputs"],
        tuple(own["unknown"]),
        own["unchanged"],
        tuple(own["dependencies"]),
        own["generation"],
        own["operation"],
        Position(**own["position"]) if own["position"] else None,
        own["secrets"],
        own["rebuilt"],
        Reason(own["reason"]) if own["reason"] else None,
        body.get("previous_address", ""),
        change.get("importing", {"id": ""})["id"],
        own["protected"],
        tuple(own.get("leftovers", ())),
        own.get("trust", ""),
    )


def _output(name: str, body: Any) -> OutputChange:
    before, after = body.get("before"), body.get("after")
    return OutputChange(name, Action(body["action"]), before, after, body["unknown"], body["sensitive"])


def _drift(body: Any) -> Drift:
    own = body["falplan"]
    return Drift(
        body["address"],
        _type(body),
        Presence(own["presence"]),
        own["because"],
        tuple(_attribute(a) for a in own["attributes"]),
        own["since"],
        own["by"],
        own["ignored"],
    )


def _type(body: Any) -> ResourceType:
    return ResourceType(body["type"].removeprefix("falplan_"))


def _attribute(body: Any) -> AttributeChange:
    def side(name: str) -> Json | Literal[Absent.ABSENT]:
        return cast("Json", body[name]) if name in body else ABSENT

    origin = Origin(body["origin"]) if "origin" in body else None
    return AttributeChange(
        tuple(body["path"]),
        side("before"),
        side("after"),
        body["because"],
        origin,
        body["forces_replacement"],
        body.get("override", False),
    )
