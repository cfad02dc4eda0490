"""Values in the shape of `terraform show -json`: planned, configured, recorded, outputs. Knows nothing of what changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from falplan import __version__
from falplan.core.plan import Action, Change
from falplan.core.provided import Concrete
from falplan.core.report import Section
from falplan.core.resources import ResourceType, type_of
from falplan.core.state import Recorded, State, Status
from falplan.core.values import Json, JsonObject

TERRAFORM_VERSION = "1.11.4"
PROVIDER = "falplan"
CONCRETE = "concrete"
"""Name of the section that has what resources come to under the types of Terraform's own providers."""

SENSITIVE: dict[ResourceType, tuple[str, ...]] = {ResourceType.SECRET: ("fingerprint", "version")}
"""Inputs that stand for a secret's value: its keyed fingerprint, or the version of a stored one. Neither is the value."""


def identity(address: str, kind: str, inputs: Mapping[str, Json] | None = None) -> JsonObject:
    """What names a resource. With its inputs: something that is only looked at is `data`, as in Terraform."""
    return {
        "address": address,
        "mode": "data" if (inputs or {}).get("managed") is False else "managed",
        "type": f"falplan_{kind}",
        "name": address.partition(".")[2] or address,
        "provider_name": PROVIDER,
    }


def planned_values(changes: Iterable[Change], sections: Iterable[Section]) -> JsonObject:
    gone = (Action.DELETE, Action.FORGET)
    listed: list[Json] = [_planned(c) for c in changes if c.action not in gone]
    body: JsonObject = {"root_module": {"resources": [*listed, *_concrete_of(sections)]}}
    outputs = outputs_of(sections)
    return {"outputs": outputs, **body} if outputs else body


def _planned(change: Change) -> JsonObject:
    values: JsonObject = {**(change.after or {}), **_kept(change)}
    head = identity(change.address, change.type.value, change.after)
    return {
        **head,
        "schema_version": 0,
        "values": values,
        "sensitive_values": sensitive(change.type, values) or {},
    }


def concrete_section(found: Mapping[str, Concrete]) -> Section:
    """What the plan's resources come to under Terraform's own types, by address; nothing for people to read."""
    return Section(CONCRETE, "", (), {a: {"type": c.type, "values": c.values} for a, c in sorted(found.items())})


def _concrete_of(sections: Iterable[Section]) -> list[Json]:
    """Beside falplan's own resources: rules that know Terraform's types judge what is really made."""
    told = next((s.body for s in sections if s.name == CONCRETE), {})
    found: list[Json] = []
    for address, one in told.items():
        assert isinstance(one, dict)  # noqa: S101 - as it was made above
        kind, name = str(one["type"]), address.partition(".")[2] or address
        head = {"address": f"{kind}.{name}", "mode": "managed", "type": kind, "name": name}
        provider = f"registry.terraform.io/hashicorp/{kind.partition('_')[0]}"
        values = one["values"]
        found.append({**head, "provider_name": provider, "schema_version": 0, "values": values, "sensitive_values": {}})
    return found


def _kept(change: Change) -> JsonObject:
    return {k: v for k, v in change.outputs.items() if k not in change.unknown}


def sensitive(kind: ResourceType, values: Mapping[str, Json] | None) -> Json:
    """Terraform's parallel tree: false for nothing, else true beside what stands for a secret."""
    if values is None:
        return False
    return {name: True for name in SENSITIVE.get(kind, ()) if name in values}


def configuration(changes: Iterable[Change]) -> JsonObject:
    return {
        "provider_config": {PROVIDER: {"name": PROVIDER, "full_name": PROVIDER, "version_constraint": __version__}},
        "root_module": {"resources": [_configured(c) for c in changes if c.after is not None]},
    }


def _configured(change: Change) -> JsonObject:
    expressions: JsonObject = {name: {"constant_value": value} for name, value in (change.after or {}).items()}
    head = identity(change.address, change.type.value, change.after)
    del head["provider_name"]
    body: JsonObject = {
        **head,
        "provider_config_key": PROVIDER,
        "expressions": expressions,
        "schema_version": 0,
    }
    return {**body, "depends_on": list(change.dependencies)} if change.dependencies else body


def prior_state(prior: State) -> JsonObject:
    resources: list[Json] = [_recorded(prior.resources[a]) for a in sorted(prior.resources)]
    return {
        "format_version": "1.0",
        "terraform_version": TERRAFORM_VERSION,
        "values": {"root_module": {"resources": resources}},
    }


def _recorded(recorded: Recorded) -> JsonObject:
    values: JsonObject = {**recorded.inputs, **recorded.outputs}
    body: JsonObject = {
        **identity(recorded.address, recorded.type, recorded.inputs),
        "schema_version": 0,
        "values": values,
        "sensitive_values": sensitive(type_of(recorded.address), values),
        "depends_on": list(recorded.dependencies),
    }
    return body if recorded.status is Status.APPLIED else {**body, "tainted": True}


def output_changes_of(sections: Iterable[Section]) -> JsonObject:
    """Terraform's `output_changes`: the body of the section of that name."""
    return next((s.body for s in sections if s.name == "output_changes"), {})


def outputs_of(sections: Iterable[Section]) -> JsonObject:
    """The outputs that there will be, as Terraform's `planned_values` has them. One that is not known yet has no value."""
    found: JsonObject = {}
    for name, change in output_changes_of(sections).items():
        if not isinstance(change, dict) or change.get("actions") == ["delete"]:
            continue
        body: JsonObject = {"sensitive": change.get("after_sensitive", False)}
        known = not change.get("after_unknown", False)
        found[name] = {**body, "value": change.get("after")} if known else body
    return found


def checks_of(sections: Iterable[Section]) -> list[Json]:
    """Terraform's `checks`, of those that fail: what the section `findings` lists of them, check by check."""
    listed = next((s.body.get("list") for s in sections if s.name == "findings"), [])
    problems: dict[str, list[Json]] = {}
    for finding in listed if isinstance(listed, list) else []:
        if isinstance(finding, dict) and finding.get("source") == "check":
            problems.setdefault(str(finding.get("name")), []).append({"message": finding.get("message")})
    return [_check(name, found) for name, found in sorted(problems.items())]


def _check(name: str, problems: list[Json]) -> JsonObject:
    shown = f"check.{name}"
    instance: JsonObject = {"address": {"to_display": shown}, "status": "fail", "problems": problems}
    return {
        "address": {"kind": "check", "name": name, "to_display": shown},
        "status": "fail",
        "instances": [instance],
    }
