"""The spec's JSON Schema, made from the models. Knows nothing of files."""

from __future__ import annotations

from typing import Any

from falplan.core.spec.aws import AwsRegion
from falplan.core.spec.meanings import meanings, models
from falplan.core.spec.models import EncryptionKey, SpecModel
from falplan.core.spec.regions import LocalRegion, SshRegion
from falplan.core.values import JsonObject

_TEMPLATE = {"$ref": "#/$defs/Template"}
_UNTEMPLATED = ("Variable",)


def spec_schema() -> JsonObject:
    """JSON Schema (2020-12) of a spec file, for editors and checkers. Any value may be a template in place of its own type."""
    schema: dict[str, Any] = SpecModel.model_json_schema()
    definitions = schema["$defs"]
    regions = {model.__name__: model.model_json_schema() for model in (LocalRegion, SshRegion, AwsRegion)}
    key = EncryptionKey.model_json_schema()
    definitions |= {**key.pop("$defs"), "EncryptionKey": key}
    for region in regions.values():
        definitions |= region.pop("$defs", {})
    definitions |= regions
    known = models()
    for name, model in [*definitions.items(), ("SpecModel", schema)]:
        for field, meaning in meanings(known[name]).items():
            told = {**model["properties"][field], "description": meaning}
            model["properties"][field] = dict(sorted(told.items()))
        if name not in _UNTEMPLATED:
            model["properties"] = {key: _templated(key, value) for key, value in model["properties"].items()}
    definitions["Template"] = {
        "type": "string",
        "pattern": r"\{\{|\{%",
        "description": "Text with Jinja expressions. In scope: var, project, and inside apps environment and each.",
    }
    definitions["Region"] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in regions]}
    definitions["AppModel"]["oneOf"] = [
        {"required": ["app"]},
        {"required": ["image"]},
        {"required": ["command"], "not": {"required": ["image"]}},
    ]
    definitions["AppOverlay"] = _overlay(definitions["AppModel"])
    schema["properties"]["apps"].pop("propertyNames", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:falplan:schema:spec:1"}
    result: JsonObject = {**head, **schema, "title": "falplan spec"}
    return result


def _overlay(app: dict[str, Any]) -> dict[str, Any]:
    """What an environment may say of an app: the same keys, none of them required."""
    kept = {key: value for key, value in app.items() if key != "oneOf"}
    return {**kept, "title": "AppOverlay", "description": "Settings that differ in one environment."}


def _templated(key: str, value: dict[str, Any]) -> dict[str, Any]:
    value = _refer(value)
    if key == "version" or "additionalProperties" in value or "$ref" in value:
        return value
    options = value.get("anyOf")
    if options is not None:
        return value if key == "apps" else {**value, "anyOf": [*options, _TEMPLATE]}
    kept: dict[str, Any] = {
        name: value[name] for name in ("default", "description", "examples", "title") if name in value
    }
    plain = {name: part for name, part in value.items() if name not in kept}
    return {**kept, "anyOf": [plain, _TEMPLATE]}


def _refer(value: Any) -> Any:
    """Overlays are the one place where a schema of the models points at a definition made here."""
    if isinstance(value, dict):
        if "x-ref" in value:
            return {"$ref": "#/$defs/" + value["x-ref"]}
        return {key: _refer(part) for key, part in value.items()}
    return [_refer(part) for part in value] if isinstance(value, list) else value
