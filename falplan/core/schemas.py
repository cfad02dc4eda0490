"""JSON Schemas of what falplan writes for programs: a plan's JSON and saved state. Written by hand, beside the code that writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from falplan.core import state
from falplan.core.consequences import Effect
from falplan.core.plan import Action, Presence, Reason
from falplan.core.plan_parse import FORMAT
from falplan.core.report import Tone
from falplan.core.resources import ResourceType
from falplan.core.spec.resolved import Origin
from falplan.core.values import Json, JsonObject

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TEXT: JsonObject = {"type": "string"}
TEXTS: JsonObject = {"type": "array", "items": TEXT}
COUNT: JsonObject = {"type": "integer", "minimum": 0}
FLAG: JsonObject = {"type": "boolean"}
ANY: JsonObject = {"type": "object"}
ANY_OR_NULL: JsonObject = {"type": ["object", "null"]}
ADDRESS: JsonObject = {"type": "string", "pattern": '^[^"\\\\\\s]+$', "description": "Stable, without quotes."}


def plan_schema() -> JsonObject:
    """Of `plan --json`: Terraform's keys, and falplan's own under `falplan`. Readers must accept keys that are not named here."""
    definitions: JsonObject = {
        "Change": _change(),
        "Drift": _drifted(),
        "Attribute": _attribute(),
        "Resource": _resource(),
        "Own": _own(),
    }
    refs: dict[str, JsonObject] = {name: {"$ref": f"#/$defs/{name}"} for name in definitions}
    module = _object({"resources": _list(refs["Resource"])})
    output = _object({"sensitive": FLAG}, {"value": {}})
    values = _object({"root_module": module}, {"outputs": _map(output)})
    config: JsonObject = {k: v for k, v in IDENTITY.items() if k != "provider_name"}
    config |= {"provider_config_key": TEXT, "expressions": ANY, "schema_version": COUNT}
    resources = _list(_object(config, {"depends_on": TEXTS}))
    return _document(
        "plan",
        FORMAT,
        "A plan as `falplan plan --json` prints it: the shape of `terraform show -json`, format 1.2, with falplan's own keys beside it.",
        {
            "format_version": {"type": "string", "pattern": r"^1\.\d+$"},
            "terraform_version": TEXT,
            "falplan": refs["Own"],
            "planned_values": values,
            "resource_drift": _list(refs["Drift"]),
            "resource_changes": _list(refs["Change"]),
            "relevant_attributes": _list(_object({"resource": ADDRESS, "attribute": TEXTS})),
            "configuration": _object({"provider_config": ANY, "root_module": _object({"resources": resources})}),
            "checks": _list(_check()),
            "applyable": FLAG,
            "complete": FLAG,
            "errored": FLAG,
        },
        {
            "prior_state": _object({"format_version": TEXT, "terraform_version": TEXT, "values": values}),
            "output_changes": _map(_output_change()),
            "timestamp": {"type": "string", "format": "date-time"},
        },
        definitions,
    )


def state_schema() -> JsonObject:
    """Of saved state, as `falplan state pull` prints it. Readers must accept keys that are not named here."""
    intent = _object({"action": TEXT, "operation": TEXT, "generation": COUNT, "inputs_digest": TEXT})
    resource = _object(
        {
            "address": ADDRESS,
            "type": TEXT,
            "status": _one_of(state.Status),
            "generation": COUNT,
            "dependencies": TEXTS,
            "inputs": ANY,
            "outputs": ANY,
        },
        {"intent": intent},
    )
    return _document(
        "state",
        state.FORMAT_VERSION,
        "What falplan applied: resources with their inputs and outputs, and operations that were begun and not seen to end.",
        {
            "format_version": {"const": state.FORMAT_VERSION},
            "falplan_version": TEXT,
            "project": TEXT,
            "lineage": TEXT,
            "serial": COUNT,
            "resources": _list({"$ref": "#/$defs/Resource"}),
            "retired": _map(COUNT),
            "checksum": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        },
        {},
        {"Resource": resource},
    )


def _document(
    name: str, version: int, description: str, required: JsonObject, optional: JsonObject, definitions: JsonObject
) -> JsonObject:
    head: JsonObject = {
        "$schema": DRAFT,
        "$id": f"urn:falplan:schema:{name}:{version}",
        "title": f"falplan {name}",
        "description": description,
    }
    return {**head, **_object(required, optional), "$defs": definitions}


IDENTITY: JsonObject = {
    "address": ADDRESS,
    "mode": {"enum": ["managed", "data"]},
    "type": {"enum": [f"falplan_{kind.value}" for kind in ResourceType]},
    "name": TEXT,
    "provider_name": TEXT,
}


def _resource() -> JsonObject:
    required: JsonObject = {**IDENTITY, "schema_version": COUNT, "values": ANY, "sensitive_values": ANY}
    return _object(required, {"depends_on": TEXTS, "tainted": FLAG})


def _sides(actions: Iterable[list[str]]) -> JsonObject:
    marks: JsonObject = {"type": ["object", "boolean"]}
    return _object(
        {
            "actions": {"enum": cast("list[Json]", list(actions))},
            "before": ANY_OR_NULL,
            "after": ANY_OR_NULL,
            "after_unknown": _map({"const": True}),
            "before_sensitive": marks,
            "after_sensitive": marks,
        },
        {"replace_paths": _list(TEXTS), "importing": _object({"id": TEXT})},
    )


def _output_change() -> JsonObject:
    unknown: JsonObject = {"after_unknown": FLAG, "before_sensitive": FLAG, "after_sensitive": FLAG}
    return _object({"actions": TEXTS, "before": {}, "after": {}, **unknown})


def _check() -> JsonObject:
    problem = _object({"message": TEXT})
    instance = _object({"address": _object({"to_display": TEXT}), "status": TEXT, "problems": _list(problem)})
    address = _object({"kind": TEXT, "name": TEXT, "to_display": TEXT})
    return _object({"address": address, "status": TEXT, "instances": _list(instance)})


def _change() -> JsonObject:
    attributes = _list({"$ref": "#/$defs/Attribute"})
    place = _object({"file": TEXT, "line": COUNT, "column": COUNT})
    own = _object(
        {
            "because": TEXT,
            "reason": {"type": ["string", "null"]},
            "operation": TEXT,
            "generation": COUNT,
            "unchanged": COUNT,
            "unknown": TEXTS,
            "dependencies": TEXTS,
            "outputs": ANY,
            "secrets": {**_map(TEXT), "description": "Keyed fingerprints, or versions of stored ones; never a value."},
            "rebuilt": FLAG,
            "protected": FLAG,
            "attributes": attributes,
            "drift": attributes,
            "position": {"anyOf": [place, {"type": "null"}]},
        },
        {
            "leftovers": {**TEXTS, "description": "What else an interrupted operation left: it is removed, too."},
            "trust": {**TEXT, "description": "A host key that was just scanned: to apply the plan is to trust it."},
        },
    )
    reason: JsonObject = {
        "type": "string",
        "examples": [r.value for r in Reason],
        "description": "Why; more may come.",
    }
    return _object(
        {**IDENTITY, "change": _sides(a.terraform for a in Action), "falplan": own},
        {"previous_address": ADDRESS, "action_reason": reason},
    )


def _drifted() -> JsonObject:
    own = _object(
        {
            "presence": _one_of(Presence),
            "because": TEXT,
            "attributes": _list({"$ref": "#/$defs/Attribute"}),
            "since": TEXT,
            "by": TEXT,
            "ignored": TEXT,
        }
    )
    return _object({**IDENTITY, "change": _sides([["update"], ["delete"]]), "falplan": own})


def _attribute() -> JsonObject:
    return _object(
        {"path": TEXTS, "because": TEXT, "forces_replacement": FLAG},
        {
            "before": {},
            "after": {},
            "origin": _one_of(Origin),
            "override": {**FLAG, "description": "Of drift: set on the control plane."},
        },
    )


def _own() -> JsonObject:
    runner = _object({"address": ADDRESS, "effect": _one_of(Effect), "count": COUNT, "because": TEXT, "where": TEXT})
    row = _object({"text": TEXT, "tone": _one_of(Tone), "detail": TEXTS}, {"label": TEXT})
    return {
        **_object(
            {
                "format": {"const": FORMAT},
                "version": TEXT,
                "project": TEXT,
                "lineage": TEXT,
                "serial": COUNT,
                "order": {**_map(TEXTS), "description": "Each operation, and those that it waits for."},
                "unknown": {**_map(TEXT), "description": "What could not be looked at, and why."},
                "left_out": {**_map(TEXT), "description": "What would change but was not chosen, and why."},
                "refresh_only": FLAG,
                "hints": TEXTS,
                "runners": _list(runner),
                "no_place": _list(_object({"address": ADDRESS, "reasons": TEXTS, "advice": TEXT}, {"unknown": FLAG})),
                "observed": {**_map(TEXT), "description": "A digest of what was seen of each resource."},
                "sections": _list(_object({"name": TEXT, "title": TEXT, "rows": _list(row)})),
            }
        ),
        "additionalProperties": {"type": "object", "description": "What a section says, under its name."},
    }


def _object(required: Mapping[str, Json], optional: Mapping[str, Json] = {}) -> JsonObject:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _list(items: JsonObject) -> JsonObject:
    return {"type": "array", "items": items}


def _map(values: JsonObject) -> JsonObject:
    return {"type": "object", "additionalProperties": values}


def _one_of(kind: type[Origin | Presence | Effect | Tone | state.Status]) -> JsonObject:
    return {"enum": [member.value for member in kind]}
