"""A plan's JSON: Terraform's shape, all of it readable again, as its schema says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from falplan.core.plan import Action
from falplan.core.plan_json import plan_from_json, plan_to_json, render_plan_json, report_from_json, report_to_json
from falplan.core.report import Report, Section
from falplan.core.schemas import plan_schema, state_schema
from falplan.core.state import Intent, State, Status, render_state
from falplan.core.values import canonical
from tests.views.plans import APP, CASES, DRIFTED, PRIOR, REPORTS, SECRET, change, plan

GOLDEN = Path(__file__).parents[1] / "golden" / "plans"
PLAN = Draft202012Validator(plan_schema())


def whole(name: str, **more: Any) -> dict[str, Any]:
    return json.loads(render_plan_json(CASES[name], prior=PRIOR, **more))  # type: ignore[no-any-return]


def change_of(body: dict[str, Any], address: str = APP) -> Any:
    (found,) = [c for c in body["resource_changes"] if c["address"] == address]
    return found


@given(REPORTS)
def test_every_field_survives_even_with_sorted_keys(report: Report) -> None:
    """Seen red with each of `protected`, `reason`, `position`, `hints` and the order of `unknown` left out."""
    body = json.loads(canonical(report_to_json(report)))

    assert report_from_json(body) == report
    assert plan_from_json(body) == report.plan


@given(REPORTS)
def test_it_is_one_line_of_printable_ascii(report: Report) -> None:
    """Seen red with `ensure_ascii=False`: other readers end a line at U+2028."""
    line = render_plan_json(report)

    assert line.isascii()
    assert line.isprintable()


@given(REPORTS)
def test_any_plan_is_as_its_schema_says(report: Report) -> None:
    PLAN.validate(json.loads(render_plan_json(report, prior=PRIOR, timestamp="2025-06-15T14:26:40Z")))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/plan.json")), ids=lambda p: p.parent.name)
def test_a_golden_plan_is_as_its_schema_says_and_has_no_key_that_it_does_not_name(path: Path) -> None:
    """Seen red with `rebuilt` taken out of the schema, and with `applyable` as text."""
    body = json.loads(path.read_text())

    PLAN.validate(body)
    assert list(unnamed(body, plan_schema(), plan_schema())) == []


def test_state_is_as_its_schema_says_and_has_no_key_that_it_does_not_name() -> None:
    begun = replace(PRIOR.resources[APP], intent=Intent("update", "0" * 32, 4, ""), status=Status.TAINTED)
    state = State("demo", PRIOR.lineage, 7, {**PRIOR.resources, APP: begun}, {"app.main.old": 3})
    body = json.loads(render_state(state))

    Draft202012Validator(state_schema()).validate(body)
    assert list(unnamed(body, state_schema(), state_schema())) == []
    assert not Draft202012Validator(state_schema()).is_valid({**body, "format_version": 99})


def unnamed(value: Any, schema: Any, root: Any, path: str = "") -> Iterator[str]:
    """Keys of a value that its schema allows but does not describe."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    schema = next((s for s in schema.get("anyOf", []) if s.get("type") != "null"), schema)
    if isinstance(value, list):
        for item in value:
            yield from unnamed(item, schema.get("items", {}), root, f"{path}[]")
    elif isinstance(value, dict) and "properties" in schema:
        others = schema.get("additionalProperties")
        for key, inner in value.items():
            if key in schema["properties"]:
                yield from unnamed(inner, schema["properties"][key], root, f"{path}.{key}")
            elif others is None:
                yield f"{path}.{key}"


def test_terraforms_keys_of_each_action() -> None:
    forced = change_of(whole("replace"))
    moved, imported = change_of(whole("move")), change_of(whole("import"))

    assert (forced["change"]["actions"], forced["change"]["replace_paths"]) == (["delete", "create"], [["endpoint"]])
    assert forced["action_reason"] == "replace_because_cannot_update"
    assert change_of(whole("replace_create_first"))["change"]["actions"] == ["create", "delete"]
    assert change_of(whole("replace_requested"))["action_reason"] == "replace_by_request"
    assert (moved["change"]["actions"], moved["previous_address"]) == (["no-op"], "app.main.hi")
    assert (imported["change"]["actions"], imported["change"]["importing"]) == (["no-op"], {"id": "acme/hello"})
    assert change_of(whole("forget"))["change"]["actions"] == ["forget"]
    assert change_of(whole("read"))["action_reason"] == "read_because_dependency_pending"


def test_drift_shows_what_was_recorded_and_what_was_seen() -> None:
    body = whole("drift")
    found = {d["address"]: d["change"] for d in body["resource_drift"]}

    assert found[APP]["before"] == {"endpoint": "acme/hello", "settings": {"keep_alive": 10, "max_concurrency": 2}}
    assert found[APP]["after"] == {"endpoint": "acme/hello", "settings": {"keep_alive": 60, "max_concurrency": 9}}
    overrides = {
        tuple(a["path"]): a.get("override", False) for d in body["resource_drift"] for a in d["falplan"]["attributes"]
    }
    assert (found["app.main.gone"]["actions"], found["app.main.gone"]["after"]) == (["delete"], None)
    assert [r["attribute"][-1] for r in body["relevant_attributes"]] == ["keep_alive", "max_concurrency"]
    assert {path[-1]: override for path, override in overrides.items()} == {
        "keep_alive": False,
        "max_concurrency": True,
        "min_concurrency": False,
    }
    assert PRIOR.resources[APP].inputs["settings"] == {"max_concurrency": 2}, "nothing was changed in place"


def test_what_stands_for_a_secret_is_marked_wherever_it_is() -> None:
    """Seen red without the marks of `prior_state`."""
    body = whole("secrets")
    secret = change_of(body, SECRET)["change"]
    planned = {r["address"]: r for r in body["planned_values"]["root_module"]["resources"]}
    prior = {r["address"]: r for r in body["prior_state"]["values"]["root_module"]["resources"]}

    assert secret["before_sensitive"] == secret["after_sensitive"] == {"fingerprint": True}
    assert planned[SECRET]["sensitive_values"] == prior[SECRET]["sensitive_values"] == {"fingerprint": True}
    assert planned["secret.main.STORED"]["sensitive_values"] == {"version": True}
    assert planned[APP]["sensitive_values"] == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("update", (True, True, False)),
        ("nothing", (False, True, False)),
        ("unknown", (False, False, False)),
        ("left_out", (True, False, False)),
        ("refresh_only", (True, True, False)),
        ("hostile", (False, True, True)),
        ("create", (False, True, True)),
    ],
)
def test_whether_it_can_be_applied_and_is_complete(name: str, expected: tuple[bool, bool, bool]) -> None:
    body = whole(name)

    assert (body["applyable"], body["complete"], body["errored"]) == expected


def test_sections_stand_under_their_names_and_outputs_where_terraform_has_them() -> None:
    body = whole("sections", timestamp="2025-06-15T14:26:40Z")

    assert body["falplan"]["costs"] == {"hourly": {"before": 1.2, "after": 2.4}}
    assert body["planned_values"]["outputs"] == {
        "url": {"sensitive": False, "value": "https://127.0.0.1:8443"},
        "token": {"sensitive": True, "value": None},
        "id": {"sensitive": False},
    }
    assert body["output_changes"]["url"]["after"] == "https://127.0.0.1:8443"
    (check,) = body["checks"]
    assert (check["address"]["to_display"], check["status"]) == ("check.regions", "fail")
    assert check["instances"][0]["problems"] == [{"message": "at least one"}]
    assert body["timestamp"] == "2025-06-15T14:26:40Z"


def test_a_section_cannot_take_the_place_of_falplans_own_keys() -> None:
    with pytest.raises(ValueError, match="order"):
        report_to_json(Report(plan(), sections=(Section("order", "Order", ()),)))


def test_another_format_is_not_taken_for_this_one() -> None:
    body: Any = plan_to_json(plan(change(Action.NOOP)))
    body["falplan"]["format"] = 2

    with pytest.raises(ValueError, match="format 2"):
        plan_from_json(body)


def test_a_state_that_is_not_given_is_not_there_and_drift_is_what_differs() -> None:
    body: Any = report_to_json(Report(plan(drift=DRIFTED)))
    found = {d["address"]: d["change"] for d in body["resource_drift"]}

    assert "prior_state" not in body
    assert found[APP]["before"] == {"settings": {"keep_alive": 10, "max_concurrency": 2}}
