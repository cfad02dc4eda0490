"""The JSON Schema of a line of the event stream. Knows how events look and not what makes them."""

from __future__ import annotations

from falplan.core.outcome import Fate
from falplan.core.values import Json, JsonObject
from falplan.views.events import ACTIONS, EVENTS_VERSION

MOVE = "move"
"""An action of planned changes alone: the address in state changes, and nothing else."""


def events_schema() -> JsonObject:
    """Of one line. Readers must tolerate keys and types that they don't know: those come without a new first number."""
    kinds = [_type(kind, required) for kind, required in TYPES.items()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:falplan:schema:events:1",
        "title": f"falplan's events, version {EVENTS_VERSION}: one line of `falplan apply --json` or `falplan destroy --json`",
        "type": "object",
        "required": ["@level", "@message", "@module", "@timestamp", "type", "sequence"],
        "properties": {
            "@level": {"enum": ["info", "warn", "error"]},
            "@message": {"type": "string", "description": "The event for people. Its wording is no interface."},
            "@module": {"const": "falplan.ui"},
            "@timestamp": {"type": "string", "format": "date-time", "description": "RFC 3339, UTC, milliseconds."},
            "sequence": {"type": "integer", "minimum": 1, "description": "Grows by one with each line."},
            "type": {"enum": list[Json](TYPES)},
        },
        "allOf": list[Json](kinds),
        "$defs": DEFINITIONS,
    }


def _type(kind: str, then: JsonObject) -> JsonObject:
    return {"if": {"properties": {"type": {"const": kind}}}, "then": then}


def _object(required: JsonObject, optional: JsonObject | None = None) -> JsonObject:
    return {"type": "object", "required": list[Json](required), "properties": {**required, **(optional or {})}}


def _hook(required: JsonObject, optional: JsonObject | None = None) -> JsonObject:
    of_all: JsonObject = {"resource": {"$ref": "#/$defs/resource"}, "action": {"$ref": "#/$defs/action"}}
    return _object({"hook": _object({**of_all, **required}, optional)})


_TEXT: JsonObject = {"type": "string"}
_COUNT: JsonObject = {"type": "integer", "minimum": 0}
_ADDRESSES: JsonObject = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_ELAPSED: JsonObject = {"elapsed_seconds": _COUNT}
_CHANGE: JsonObject = {
    "resource": {"$ref": "#/$defs/resource"},
    "action": {"$ref": "#/$defs/planned"},
    "because": _TEXT,
}

TYPES: dict[str, JsonObject] = {
    "version": _object({"falplan": _TEXT, "terraform": _TEXT, "ui": _TEXT, "events": {"const": EVENTS_VERSION}}),
    "resource_drift": _object({"change": _object(_CHANGE)}),
    "planned_change": _object(
        {
            "change": _object(
                _CHANGE,
                {
                    "reason": _TEXT,
                    "previous_resource": {"$ref": "#/$defs/resource"},
                    "importing": _object({"id": _TEXT}),
                },
            )
        }
    ),
    "change_summary": _object({"changes": {"$ref": "#/$defs/changes"}}, {"falplan": {"$ref": "#/$defs/ended"}}),
    "apply_start": _hook({}),
    "apply_progress": _hook(_ELAPSED, {"text": _TEXT}),
    "apply_complete": _hook(_ELAPSED),
    "apply_errored": _hook({**_ELAPSED, "because": _TEXT}),
    "apply_skipped": _hook({"because": _TEXT, "failed": {**_ADDRESSES, "minItems": 1}}),
    "outputs": _object(
        {
            "outputs": {
                "type": "object",
                "additionalProperties": _object({"sensitive": {"type": "boolean"}, "type": {}, "value": {}}),
            }
        }
    ),
    "diagnostic": _object(
        {
            "diagnostic": _object(
                {"severity": {"enum": ["error", "warning"]}, "summary": _TEXT, "detail": _TEXT}, {"address": _TEXT}
            )
        }
    ),
}
"""Type of event -> what it holds beside what every event holds."""

_FATES: JsonObject = {f.value: _COUNT for f in Fate}

DEFINITIONS: JsonObject = {
    "action": {"enum": list[Json](sorted(set(ACTIONS.values())))},
    "planned": {"enum": list[Json](sorted({*ACTIONS.values(), MOVE}))},
    "resource": _object(
        {
            "addr": _TEXT,
            "module": {"const": ""},
            "resource": _TEXT,
            "implied_provider": {"const": "falplan"},
            "resource_type": _TEXT,
            "resource_name": _TEXT,
            "resource_key": {"type": "null"},
        }
    ),
    "changes": _object(
        {
            "add": _COUNT,
            "change": _COUNT,
            "import": _COUNT,
            "remove": _COUNT,
            "operation": {"enum": ["plan", "apply", "destroy"]},
        }
    ),
    "ended": _object(
        {
            "counts": _object(_FATES),
            "actions": {"type": "object", "additionalProperties": _object(_FATES)},
            "addresses": _object({f.value: _ADDRESSES for f in Fate}),
            "state_saved": {"type": "boolean"},
            "complete": {"type": "boolean"},
        }
    ),
}
