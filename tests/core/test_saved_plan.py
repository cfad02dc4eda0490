"""What a saved plan holds good for, and how it says what moved."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.consequences import Consequence, Effect
from falplan.core.plan import Change, Plan
from falplan.core.planner import make_plan
from falplan.core.report import Report, Row, Section, Tone
from falplan.core.saved_plan import (
    Binding,
    Here,
    SavedPlan,
    objections,
    resource_digests,
    saved_from_json,
    saved_to_json,
    state_digest,
)
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.spec_digest import SAYS_NOTHING, spec_differences, spec_digest, spec_parts
from falplan.core.state import State
from falplan.stores.spec import load_spec
from tests.core.builders import LINEAGE, NOON, a_build, a_gateway, a_state, an_app, wanted

SPEC = wanted(a_gateway(), a_build("a"), an_app("a"))
STATE = a_state(a_gateway(), a_build("a"), serial=7)
PARTS = {"gateway": "1", "app.main.a": "2", "file a.py of app.main.a": "3"}


def a_binding(state: State = STATE, **changed: Any) -> Binding:
    made = Binding(
        project="demo",
        environment="",
        lineage=state.lineage,
        serial=state.serial,
        where="" if state.serial else "here",
        state_digest=state_digest(state),
        spec_digest="s",
        falplan="1.0+aa",
        providers={"local": "1.0+aa", "other": "other 3"},
        created_at=NOON,
        valid_until=NOON + 3600,
        resources=resource_digests(state),
        spec=PARTS,
        observed={"gateway": {"presence": "present"}},
        variables=("tag=v2",),
    )
    return replace(made, **changed)


def here(**changed: Any) -> Here:
    same = Here("demo", None, STATE, "here", "s", PARTS, "1.0+aa", {"local": "1.0+aa", "other": "other 3"}, NOON + 60)
    return replace(same, **changed)


def test_nothing_speaks_against_a_plan_where_nothing_moved() -> None:
    assert objections(a_binding(), here()) == []
    assert objections(a_binding(environment="staging"), here(environment="staging")) == []
    assert objections(a_binding(State("demo", LINEAGE, 0)), here(state=State("demo", LINEAGE, 0))) == []


MOVED = a_state(a_gateway(port=9), a_build("b"), serial=8)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another project": ({}, {"project": "other"}, 'It was made for project "demo"; this is "other".'),
    "another environment": (
        {"environment": "staging"},
        {"environment": "main"},
        "It was made for environment staging, not for environment main.",
    ),
    "all environments": ({}, {"environment": "main"}, "It was made for all environments, not for environment main."),
    "another lineage": (
        {},
        {"state": replace(STATE, lineage="other")},
        f"It was made for state {LINEAGE}; the one here is other.",
    ),
    "another place of a first state": (
        {"where": "/a"},
        {"where": "/b"},
        "It was made for a new state in /a; here it would be in /b.",
    ),
    "a later serial": (
        {},
        {"state": MOVED},
        "It is stale: state is at serial 8, the plan was made at 7: build.main.a is gone, build.main.b is new, gateway changed.",
    ),
    "the same serial with other content": (
        {},
        {"state": replace(MOVED, serial=7)},
        "It is stale: state moved since, at serial 7: build.main.a is gone, build.main.b is new, gateway changed.",
    ),
    "another file": (
        {},
        {"spec_digest": "t", "spec": {**PARTS, "file a.py of app.main.a": "4"}},
        "It was made from another spec: file a.py of app.main.a differs.",
    ),
    "another spec": (
        {},
        {"spec_digest": "t", "spec": {"gateway": "9", "app.main.b": "2"}},
        "It was made from another spec: app.main.a is gone, app.main.b is new, file a.py of app.main.a is gone, gateway differs.",
    ),
    "another falplan": ({}, {"falplan": "1.1+bb", "providers": {"local": "1.1+bb", "other": "other 3"}}, "It was made by falplan 1.0+aa; this is 1.1+bb."),
    "another provider": (
        {},
        {"providers": {"local": "1.0+aa", "other": "other 4"}},
        "It was made with provider other other 3; here is other 4.",
    ),
    "expired": ({}, {"now": NOON + 3600}, "It expired at 2025-06-15T16:06:40Z; it was made at 2025-06-15T15:06:40Z."),
    "still to come": (
        {},
        {"now": NOON - 301},
        "It was made at 2025-06-15T15:06:40Z, which is still to come by this machine's clock.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_says_which_of_all_and_what_moved(case: str) -> None:
    """Each check was taken out once; its cases were seen red, and no others."""
    binding, changed, said = CASES[case]

    assert objections(a_binding(**binding), here(**changed)) == [said]


def test_everything_that_speaks_against_it_is_said_at_once() -> None:
    found = objections(a_binding(), here(state=MOVED, spec_digest="t", spec={}, now=NOON + 9999))

    assert [line.split()[1:3] for line in found] == [["is", "stale:"], ["was", "made"], ["expired", "at"]]


def test_a_saved_plan_is_read_as_it_was_written_with_what_was_shown_beside_it() -> None:
    """Seen red with a reader that forgot the order of operations."""
    plan = make_plan(SPEC, STATE, {})
    report = Report(
        plan,
        (Consequence("app.main.a", Effect.LAUNCH, 1, "it is new", "laptop (XS)"),),
        sections=(Section("cost", "Costs", (Row("1 $/h", Tone.WARNING, ("a", "b")),), {"hourly": 1.5}),),
    )
    body = json.loads(json.dumps(saved_to_json(SavedPlan(report, a_binding(), STATE))))
    read = saved_from_json(body)

    assert read.binding == a_binding()
    assert read.report.plan == _without_positions(plan)
    assert read.report.plan.after == plan.after != {}
    assert read.prior == STATE
    assert read.report.follow == report.follow
    assert read.report.sections == report.sections
    assert set(read.report.observed) == {"gateway"}


def _without_positions(plan: Plan) -> Plan:
    return replace(plan, changes={a: replace(c, position=None) for a, c in plan.changes.items()})


def test_a_plan_of_another_version_is_no_plan_of_this_one() -> None:
    body = saved_to_json(SavedPlan(Report(make_plan(SPEC, STATE, {})), a_binding(), STATE))
    binding: Any = body["binding"]
    with pytest.raises(ValueError, match="other keys"):
        saved_from_json({**body, "binding": {**binding, "more": 1}})


TEXT = """
version: 1
project: demo
variables: {tag: {type: str, default: v1}}
regions: {here: {provider: local}}
environments:
  main: {secrets: {TOKEN: {env: TOKEN}}}
apps:
  one: {command: [python3, one.py, "{{ var.tag }}"], files: [one.py], regions: [here]}
"""


def a_spec(folder: Path, text: str = TEXT, code: str = "", tag: str = "v1") -> ResolvedSpec:
    folder.mkdir(exist_ok=True)
    (folder / "falplan.yaml").write_text(text)
    (folder / "one.py").write_text(code)
    return load_spec(folder, None, variables={"tag": tag}, variable_files=[], environ={}, providers=["local"])


def test_another_checkout_of_the_same_spec_is_the_same(tmp_path: Path) -> None:
    """Comments and lines say nothing. Seen red with a digest that held positions; and with one that held the folder."""
    one, other = a_spec(tmp_path / "a"), a_spec(tmp_path / "b", "# a comment\n" + TEXT)

    assert spec_digest(one) == spec_digest(other)


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"code": "print()"}, ["file one.py of app.main.one differs"]),
        ({"tag": "v2"}, ["app.main.one differs", "variables.tag differs"]),
        ({"text": TEXT.replace("env: TOKEN", "env: OTHER")}, ["secret.main.TOKEN differs"]),
        ({"text": TEXT.replace("project: demo", "project: demo\nowner: you")}, ["owner differs"]),
        ({"text": TEXT + "  two: {command: [x], files: [one.py]}\n"}, ["app.main.two is new", "file one.py of app.main.two is new"]),
        ({"text": TEXT.replace("here: {provider: local}", "here: {provider: local, reserve: {vcpu: 1}}")}, ["regions.here differs"]),
    ],
)  # fmt: skip
def test_whatever_the_spec_says_counts_and_is_named(
    tmp_path: Path, changed: dict[str, str], differs: list[str]
) -> None:
    """Seen red with a digest without the bundles' files; and without secrets."""
    one, other = a_spec(tmp_path), a_spec(tmp_path, **changed)

    assert spec_digest(one) != spec_digest(other)
    assert spec_differences(spec_parts(one), spec_parts(other)) == differs


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("spec", [*sorted(EXAMPLES.rglob("falplan.yaml")), EXAMPLES / "reference.yaml"], ids=str)
def test_every_example_has_a_digest(spec: Path) -> None:
    """Seen red with a digest that knew no prices: whoever had one could save no plan."""
    found = load_spec(spec.parent, spec, variables={}, variable_files=[], environ={}, providers=["local"])

    assert len(spec_digest(found)) == 64


def test_a_price_counts_by_its_amount(tmp_path: Path) -> None:
    def priced(text: str) -> ResolvedSpec:
        return a_spec(tmp_path, TEXT + f"machine_types: {{XS: {{price_per_hour: {text}}}}}\nbudget_per_hour: {text}\n")

    half, same, more = priced("0.5"), priced("0.50"), priced("0.51")

    assert spec_digest(half) == spec_digest(same) != spec_digest(more)
    assert spec_differences(spec_parts(half), spec_parts(more)) == ["budgets differs", "machine_types.XS differs"]


def test_every_field_of_a_spec_is_told_from_its_digest_or_says_nothing(tmp_path: Path) -> None:
    """A field that comes later must be digested without anybody thinking of it. Seen red with a list of fields to digest."""
    parts = {name.partition(".")[0] for name in spec_parts(a_spec(tmp_path))}

    kept = {"apps": "app", "secrets": "secret"}
    assert {kept.get(f.name, f.name) for f in fields(ResolvedSpec) if f.name not in SAYS_NOTHING} <= parts
    assert "position" in {f.name for f in fields(Change)}
