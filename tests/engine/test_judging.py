"""A whole plan judged, compared with golden files. `GOLDEN=write pytest tests/engine/test_judging.py` writes them anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.consequences import consequences
from falplan.core.cost import costs_of
from falplan.core.errors import ExitCode, FalplanError, Refused
from falplan.core.placement import GIB, Slots, slots_to_json
from falplan.core.plan import Plan
from falplan.core.plan_json import report_to_json
from falplan.core.planner import make_plan
from falplan.core.report import Report, Section
from falplan.core.resources import ResourceType, desired_resources, prices_of
from falplan.core.state import Output, Recorded, State
from falplan.engine.judging import Judgement, costs_of_plan, judge, judge_after
from falplan.engine.observe import Observed
from falplan.engine.outputs import outputs_after, with_outputs
from falplan.engine.planning import Planned
from falplan.engine.project import Project, open_project
from falplan.engine.report import report_of
from falplan.stores.spec import load_spec
from falplan.views.plan import render_plan
from falplan.views.screen import Screen
from tests.core.builders import LINEAGE
from tests.views.golden import check_golden

EMPTY = State("demo", LINEAGE, 0)
MACHINE = Slots(
    "gpu-01", "here", 96, 1024 * GIB, 96, 1024 * GIB, 8, tuple(range(8)), "NVIDIA A100-SXM4-40GB", 40960 * 1024**2
)
HEAD = """\
version: 1
project: demo
owner: acme
variables: {most: {type: int, default: 4}}
regions: {here: {provider: local, price_per_hour: {XS: 0.1, GPU-A100: 2.5}}}
"""
APPS = """\
apps:
  web: {command: serve, files: [a.py], min_concurrency: 1, max_concurrency: 3, tags: {team: vision}}
  flux: {command: serve, files: [a.py], machine_type: GPU-A100, num_gpus: 3, min_concurrency: 2, max_concurrency: 2}
"""
RULES = """\
policies:
  tagged: {rule: required_tags, parameters: {tags: {team: [speech], owner: any}}}
  types: {rule: allowed_machine_types, parameters: {machine_types: [XS, S]}}
  places: {rule: allowed_regions, parameters: {regions: [here]}}
  open: {rule: no_public_apps, environments: [main]}
  many: {rule: maximum_runners, parameters: {runners: 2}, level: advisory}
  dear: {rule: maximum_cost, parameters: {per_app: 5, per_environment: 10, in_all: 15}}
  own: {deny: "{{ app.min_concurrency > 1 and app.cost.max > 1 }}", error: "{{ app.name }} costs {{ app.cost.max }}"}
  kinds: {deny: "{{ change.type == 'gateway' and 'create' in change.actions }}", level: advisory}
  broken: {deny: "{{ app.max_concurrency // 0 }}"}
"""
CHECKS = """\
checks:
  cheap: {assert: "{{ cost.max <= var.most }}", error: "It may cost {{ cost.max }} USD an hour, not {{ var.most }}."}
  small: {assert: "{{ plan.create < 3 }}", error: "{{ plan.create }} to create", severity: warning}
  fine: {assert: "{{ apps.main.web.max_concurrency == 3 and plan.replace == 0 }}", error: never said}
  text: {assert: "{{ project }}", error: never said}
"""
OUTPUTS = """\
outputs:
  web: {value: "{{ apps.main.web.url }}"}
  gpus: {value: "{{ apps.main.flux.num_gpus * 2 }}"}
  hidden: {value: "{{ var.most }}", sensitive: true}
  revision: {value: "{{ apps.main.web.revision }} of {{ project }}"}
"""


def project_of(folder: Path, text: str) -> Project:
    (folder / "a.py").write_text("")
    (folder / "falplan.yaml").write_text(text)
    return open_project(load_spec(folder), {})


def planned(project: Project, state: State = EMPTY, *, machines: tuple[Slots, ...] = (MACHINE,)) -> Planned:
    plan = with_outputs(project.spec, make_plan(desired_resources(project.spec), state, {}), state)
    follow, missing = consequences(plan, (), machines, project.spec.machine_types)
    rows = tuple(slots_to_json(m) for m in machines)
    return Planned(plan, state, Observed(machines=rows), tuple(follow), tuple(missing))


def judged(folder: Path, text: str, state: State = EMPTY) -> Judgement:
    project = project_of(folder, text)
    return judge(project, planned(project, state))


def applied(project: Project, **kept: Any) -> State:
    """State in which the spec was applied."""
    outputs: Mapping[str, Any] = {"gateway": {"url": "https://here:1"}, "app": {"revision": "r-1"}}
    resources = {
        a: Recorded(a, r.type.value, r.inputs, outputs.get(r.type.value, {}), r.dependencies, 1, protected=r.protected)
        for a, r in desired_resources(project.spec).items()
    }
    return State("demo", LINEAGE, 1, resources, **kept)


CASES = {
    "costs": HEAD + APPS + "environments: {staging: {apps: {web: {}}}}\n",
    "budgets": HEAD + "budget_per_hour: 10\n" + APPS + "environments: {main: {budget_per_hour: 15.2}}\n",
    "unpriced": HEAD.replace("XS: 0.1, ", "") + "budget_per_hour: 50\n" + APPS,
    "no_room": HEAD + APPS.replace("min_concurrency: 2, max_concurrency: 2", "min_concurrency: 3, max_concurrency: 3"),
    "policies": HEAD + APPS.replace("files: [a.py], machine", "files: [a.py], auth: public, machine") + RULES,
    "checks": HEAD + APPS + CHECKS,
    "outputs": HEAD + APPS + OUTPUTS,
}


def render_sections(sections: tuple[Section, ...]) -> str:
    """A plan without changes, with these sections."""
    return render_plan(Report(Plan("demo", "l", 1, {}, {}), sections=sections), Screen(None))


@pytest.mark.parametrize("name", CASES)
def test_what_is_told_of_a_plan(name: str, tmp_path: Path) -> None:
    judgement = judged(tmp_path, CASES[name])
    text = render_sections(judgement.sections)
    try:
        judgement.check()
    except Refused as exc:
        text += f"\n{exc.summary}\n{exc.detail}\n"
    check_golden(text, f"judged_{name}.txt")


def test_the_same_plan_is_told_in_the_same_words(tmp_path: Path) -> None:
    text = HEAD + APPS + RULES + CHECKS + OUTPUTS
    one, two = judged(tmp_path, text), judged(tmp_path, text)

    assert render_sections(one.sections) == render_sections(two.sections)
    assert [s.body for s in one.sections] == [s.body for s in two.sections]


def test_a_policy_holds_only_in_its_environments(tmp_path: Path) -> None:
    """Seen red with policies that looked at every environment."""
    apps = "apps: {web: {command: serve, files: [a.py]}}\nenvironments: {staging: {apps: {web: {auth: public}}}}\n"
    rule = "policies: {open: {rule: no_public_apps, environments: [%s]}}\n"

    assert judged(tmp_path, HEAD + apps + rule % "main").refusals == ()
    assert [f.address for f in judged(tmp_path, HEAD + apps + rule % "staging").refusals] == ["app.staging.web"]


def test_a_finding_points_at_the_setting_that_makes_it(tmp_path: Path) -> None:
    text = HEAD + "apps:\n  web:\n    command: serve\n    files: [a.py]\n    auth: public\n"
    (found,) = judged(tmp_path, text + "policies: {open: {rule: no_public_apps}}\n").refusals

    assert found.line.startswith("falplan.yaml:10:11: ")
    assert found.detail[0] == "allowed: private"


def test_advisory_findings_and_warnings_refuse_nothing(tmp_path: Path) -> None:
    rules = "policies: {open: {deny: '{{ app.keep_alive > 0 }}', level: advisory}}\n"
    checks = "checks: {never: {assert: '{{ 1 > 2 }}', error: no, severity: warning}}\n"
    judgement = judged(tmp_path, HEAD + APPS + rules + checks)
    judgement.check()

    assert len(judgement.warnings) == 3


def test_a_plan_without_changes_is_judged_too_and_shows_no_costs(tmp_path: Path) -> None:
    project = project_of(
        tmp_path, HEAD + APPS + "policies: {many: {rule: maximum_runners, parameters: {runners: 2}}}\n"
    )
    judgement = judge(project, planned(project, applied(project)))

    assert [s.name for s in judgement.sections if s.rows] == ["placement", "findings"]
    assert [f.address for f in judgement.refusals] == ["app.main.web"]


def test_costs_before_are_those_that_were_applied(tmp_path: Path) -> None:
    """Seen red with the spec's prices for both."""
    before = applied(project_of(tmp_path, HEAD + APPS))
    dearer = HEAD.replace("XS: 0.1", "XS: 0.3")
    body: Any = (
        judged(tmp_path, dearer + APPS.replace("max_concurrency: 3", "max_concurrency: 4"), before).sections[0].body
    )

    assert body["apps"]["app.main.web"]["before"] == {"min": "0.1", "max": "0.3", "unpriced": []}
    assert body["apps"]["app.main.web"]["after"] == {"min": "0.3", "max": "1.2", "unpriced": []}


@pytest.mark.parametrize("changed", [("", ""), ("XS: 0.1", "XS: 0.3"), ("max_concurrency: 3", "max_concurrency: 4")])
def test_apps_that_stay_as_they_are_cost_what_they_would_cost_counted_anew(
    tmp_path: Path, changed: tuple[str, str]
) -> None:
    """Seen red with what is known taken though prices differ, and though the app does."""
    before = applied(project_of(tmp_path, HEAD + APPS))
    project = project_of(tmp_path, (HEAD + APPS).replace(*changed) if changed[0] else HEAD + APPS)
    plan = plan_of(project, before)
    wanted = {a: r.inputs for a, r in desired_resources(project.spec).items() if r.type is ResourceType.APP}

    old, new = costs_of_plan(plan, before, project.spec)

    assert new == costs_of(wanted, prices_of(project.spec), sorted(project.spec.regions))
    assert (old == new) is not any(changed)


def plan_of(project: Project, state: State) -> Plan:
    return planned(project, state).plan


def test_a_change_of_outputs_alone_is_a_change_and_applying_it_ends_that(tmp_path: Path) -> None:
    """Seen red with `is_empty` that looked at operations alone."""
    project = project_of(tmp_path, HEAD + APPS + OUTPUTS)
    state = applied(project)
    plan = plan_of(project, state)
    state = replace(state, outputs=outputs_after(project.spec, state))

    assert not plan.after
    assert not plan.is_empty
    assert state.outputs["web"] == Output("https://here:1/run/acme/web")
    assert state.outputs["revision"].value == "r-1 of demo"
    assert plan_of(project, state).is_empty
    assert not plan_of(project_of(tmp_path, HEAD + APPS), state).is_empty


@pytest.mark.parametrize(
    ("changed", "unknown"),
    [
        ("max_concurrency: 5", []),
        ("max_concurrency: 3, keep_alive: 99", []),
        ("max_concurrency: 3, startup_timeout: 99", ["revision"]),
    ],
)
def test_an_output_is_unknown_only_if_the_apply_changes_what_it_reads(
    changed: str, unknown: list[str], tmp_path: Path
) -> None:
    """Seen red with every output of a changed app unknown."""
    project = project_of(tmp_path, HEAD + APPS + OUTPUTS)
    state = applied(project)
    state = replace(state, outputs=outputs_after(project.spec, state))
    after = project_of(tmp_path, HEAD + APPS.replace("max_concurrency: 3", changed) + OUTPUTS)
    plan = plan_of(after, state)

    assert [name for name, o in plan.outputs.items() if o.unknown] == unknown
    assert [o.name for o in plan.changed_outputs] == unknown


def test_a_sensitive_value_is_in_no_text_and_no_json(tmp_path: Path) -> None:
    text = HEAD.replace("default: 4", "default: 424242") + APPS + OUTPUTS
    judgement = judged(tmp_path, text)

    assert "424242" not in render_sections(judgement.sections)
    assert "424242" not in str([s.body for s in judgement.sections])


def test_checks_after_an_apply_see_what_it_made(tmp_path: Path) -> None:
    checks = """\
checks:
  served: {when: after, assert: "{{ outputs.web == apps.main.web.url and gateway.url in outputs.web }}", error: no}
  named: {when: after, assert: "{{ apps.main.web.revision == 'r-2' }}", error: "It serves {{ apps.main.web.revision }}."}
"""
    project = project_of(tmp_path, HEAD + APPS + OUTPUTS + checks)
    state = applied(project)
    state = replace(state, outputs=outputs_after(project.spec, state))
    (found,) = judge_after(project.spec, state)

    assert found.message == 'check "named": It serves r-1.'
    assert found.refuses


def test_an_output_that_fails_names_its_place(tmp_path: Path) -> None:
    project = project_of(tmp_path, HEAD + APPS + "outputs: {bad: {value: '{{ var.most // 0 }}'}}\n")
    with pytest.raises(FalplanError) as caught:
        planned(project)

    assert caught.value.detail == "falplan.yaml:9:11: bad: ZeroDivisionError: integer division or modulo by zero"


def test_a_greedy_expression_refuses_the_plan_and_the_others_are_asked_all_the_same(tmp_path: Path) -> None:
    checks = """\
checks:
  a-greedy: {assert: "{{ ([0] * 99999999) | length + ([0] * 99999999) | length > 0 }}", error: no}
  b-fine: {assert: "{{ 1 > 2 }}", error: said}
"""
    found = judged(tmp_path, HEAD + APPS + checks).refusals

    assert [f.message for f in found] == [
        'check "a-greedy" can\'t be judged: template exceeded 2 s / 256 MB',
        'check "b-fine": said',
    ]
    assert Refused.exit_code == ExitCode.REFUSED


def test_an_output_of_an_app_that_is_not_there_yet_is_left_as_it_was(tmp_path: Path) -> None:
    """After an apply of a part. Seen red with the URL of an app that nobody had deployed, and an empty revision."""
    project = project_of(tmp_path, HEAD + APPS + OUTPUTS)
    whole = applied(project)
    part = replace(whole, resources={a: r for a, r in whole.resources.items() if a != "app.main.web"})
    before = replace(part, outputs={"web": Output("as it was")})
    plan = plan_of(project, before)
    targeted = with_outputs(
        project.spec, replace(plan, changes={a: c for a, c in plan.changes.items() if a != "app.main.web"}), before
    )

    assert "web" not in outputs_after(project.spec, part)
    assert outputs_after(project.spec, before)["web"] == Output("as it was")
    assert "web" not in targeted.outputs


@pytest.mark.parametrize(("environ", "applyable"), [({}, True), ({"CI": "true"}, False)], ids=["at a desk", "in CI"])
def test_a_plan_whose_gateway_is_refused_is_not_applyable(
    environ: dict[str, str], applyable: bool, tmp_path: Path
) -> None:
    """Seen red with a plan whose JSON said that it could be applied, and whose apply was refused."""
    project = replace(project_of(tmp_path, HEAD + APPS), environ=environ)
    made = planned(project)
    body = report_to_json(report_of(made, judge(project, made).sections))

    assert (body["applyable"], body["errored"]) == (applyable, not applyable)
