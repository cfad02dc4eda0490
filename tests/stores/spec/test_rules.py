"""Prices, budgets, tags, protection, checks, outputs and policies as they are written."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from falplan.core.planner import make_plan
from falplan.core.resources import desired_resources, prices_of
from falplan.core.spec.resolved import Origin
from falplan.core.spending import Budgets
from falplan.core.state import State

from .project import HEAD, apps_of, findings, load, value_of

WEB = "apps:\n  web: {command: serve, files: [a.py]}\n  text-web: {command: serve, files: [a.py], tags: {own: x}}\n"
FILES = {"a.py": ""}


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        (
            "checks: {a: {assert: '{{ var.most > 1 }}', error: no}}\n",
            '8:30 SPEC029 var has no "most"',
            "",
        ),
        (
            "checks: {a: {assert: '{{ cots.max > 1 }}', error: no}}\n",
            '8:26 SPEC029 "cots" is not defined',
            'did you mean "cost"?',
        ),
        (
            "checks: {a: {assert: '{{ true }}', error: '{{ cost.mx }}'}}\n",
            '8:52 SPEC029 cost has no "mx"',
            'did you mean "max"?',
        ),
        (
            "checks: {a: {assert: '{{ true or apps.main.wbe.url }}', error: no}}\n",
            '8:44 SPEC029 apps.main has no "wbe"',
            'did you mean "web"?',
        ),
        (
            "checks: {a: {assert: '{{ apps.main.web.revision }}', error: no}}\n",
            '8:40 SPEC029 apps.main.web has no "revision"',
            "it is known only after an apply: say `when: after`",
        ),
        (
            "checks: {a: {when: after, assert: '{{ plan.create }}', error: no}}\n",
            '8:39 SPEC029 "plan" is not defined',
            "it is known only before an apply: say `when: before`",
        ),
        (
            "outputs: {a: {value: '{{ apps.main.text-web.url }}'}}\n",
            '8:36 SPEC029 apps.main has no "text"',
            'did you mean apps.main["text-web"]?',
        ),
        ("checks: {a: {assert: 'true', error: no}}\n", "8:22 SPEC028 not an expression", 'write it as "{{ … }}"'),
        (
            "checks: {a: {assert: '{{ 1 }}'}}\n",
            "8:13 SPEC021 the key `error` is missing under checks.<name>",
            "add `error:`",
        ),
        (
            "checks: {a: {asert: '{{ 1 }}', error: no, assert: '{{ 1 }}'}}\n",
            '8:14 SPEC020 unknown key "asert" under checks.<name>',
            'did you mean "assert"?',
        ),
        ("checks: {a: {assert: '{{ 1 +  }}', error: no}}\n", "8:23 SPEC028 bad template", ""),
        (
            "policies: {a: {level: advisory}}\n",
            "8:12 SPEC022 a policy has exactly one of `rule` and `deny`",
            "rules: required_tags",
        ),
        (
            "policies: {a: {rule: no_public_app}}\n",
            '8:22 SPEC019 "no_public_app" is not allowed',
            'did you mean "no_public_apps"?',
        ),
        (
            "policies: {a: {rule: required_tags}}\n",
            "8:16 SPEC021 the rule required_tags needs tags",
            "add `parameters: {tags: …}`",
        ),
        (
            "policies: {a: {rule: no_public_apps, parameters: {runners: 2}}}\n",
            '8:51 SPEC022 the rule no_public_apps has no parameter "runners"',
            "remove it",
        ),
        (
            "policies: {a: {rule: allowed_regions, parameters: {regions: [heer, here]}}}\n",
            '8:62 SPEC024 unknown region "heer"',
            'did you mean "here"?',
        ),
        (
            "policies: {a: {rule: no_public_apps, environments: [man]}}\n",
            '8:53 SPEC024 unknown environment "man"',
            'did you mean "main"?',
        ),
        (
            "policies: {a: {deny: '{{ app.kep_alive > 1 }}'}}\n",
            '8:30 SPEC029 app has no "kep_alive"',
            'did you mean "keep_alive"?',
        ),
        ("budget_per_hour: -1\n", "8:18 SPEC019 amount out of range", ""),
        ("budget_per_hour: 1.0000001\n", "8:18 SPEC019 not an amount of US dollars", "six digits"),
        ("budget_per_hour: '5'\n", "8:18 SPEC018 expected a whole number, found the text", "remove the quotes"),
        ("tags: {'a b': c}\n", '8:7 SPEC023 bad name of a tag "a b"', ""),
        (
            "machine_types: {XS: {price_per_hour: cheap}}\n",
            '8:38 SPEC018 expected a whole number, found "cheap"',
            "",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_the_nearest_name(
    more: str, said: str, hint: str, tmp_path: Path
) -> None:
    """Seen red with names looked up only when they are evaluated: `true or …` hid a misspelt one until an apply needed it."""
    spec = HEAD + "regions:\n  here: {provider: local}\n" + WEB + more
    found = [
        f"{d.position and d.position.line}:{d.position and d.position.column} {d.code} {d.message}"
        for d in findings(tmp_path, spec, FILES)
    ]
    hints = [d.hint for d in findings(tmp_path, spec, FILES)]
    matching = [h for f, h in zip(found, hints, strict=True) if f.startswith(said)]

    assert matching, found
    assert hint in matching[0]


def test_a_price_of_an_unknown_machine_type_names_the_nearest(tmp_path: Path) -> None:
    spec = HEAD + "regions: {here: {provider: local, price_per_hour: {GPU-A10: 1}}}\n"
    (found,) = findings(tmp_path, spec)

    assert (str(found.position), found.message, found.hint) == (
        "falplan.yaml:3:52",
        'unknown machine type "GPU-A10"',
        'did you mean "GPU-A100"?',
    )


def test_a_region_has_its_own_price_in_place_of_the_machine_types(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        HEAD
        + """\
regions:
  here: {provider: local, price_per_hour: {XS: 0, GPU-A100: "{{ 2 + 0.5 }}"}, budget_per_hour: 3}
  there: {provider: local}
machine_types: {XS: {price_per_hour: 0.10}, own: {vcpu: 1, ram: 1GB, price_per_hour: 1}}
budget_per_hour: 20.50
environments: {staging: {budget_per_hour: "{{ 2 }}"}}
""",
    )

    assert prices_of(spec) == {
        "here": {"XS": Decimal(0), "own": Decimal(1), "GPU-A100": Decimal("2.5")},
        "there": {"XS": Decimal("0.1"), "own": Decimal(1)},
    }
    assert spec.budgets == Budgets(Decimal("20.5"), {"staging": Decimal(2)}, {"here": Decimal(3)})
    assert spec.regions["here"].options == {}
    assert str(spec.positions["regions.here.budget_per_hour"]) == "falplan.yaml:4:79"


def test_money_reaches_the_gateway_and_no_revision(tmp_path: Path) -> None:
    """Seen red with the price among the sizes of a machine type: every app got a new revision when it changed."""
    plain = desired_resources(load(tmp_path, HEAD + WEB, FILES))
    priced = desired_resources(
        load(tmp_path, HEAD + WEB + "machine_types: {XS: {price_per_hour: 1}}\nbudget_per_hour: 5\n", FILES)
    )

    assert {a for a in plain if plain[a] != priced[a]} == {"gateway"}
    assert priced["gateway"].inputs["prices"] == {"local": {"XS": "1"}}
    assert priced["gateway"].inputs["budgets"] == {"project": "5"}
    assert {"prices", "budgets"}.isdisjoint(plain["gateway"].inputs)


def test_tags_of_project_environment_app_and_overlay_are_laid_one_on_the_other(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        HEAD
        + """\
tags: {team: vision, stage: any, own: project}
variables: {stage: {default: test}}
environments:
  main: {}
  staging: {tags: {stage: "{{ var.stage }}"}, apps: {web: {tags: {own: overlay}}, text-web: {}}}
"""
        + WEB,
        FILES,
    )
    apps = apps_of(spec)

    assert value_of(apps["app.main.web"], "tags") == {"team": "vision", "stage": "any", "own": "project"}
    assert value_of(apps["app.main.text-web"], "tags") == {"team": "vision", "stage": "any", "own": "x"}
    assert value_of(apps["app.staging.web"], "tags") == {"team": "vision", "stage": "test", "own": "overlay"}
    origins = {address: app.settings["tags"].origin for address, app in apps.items()}
    assert origins == {
        "app.main.web": Origin.SPEC,
        "app.main.text-web": Origin.SPEC,
        "app.staging.web": Origin.OVERLAY,
        "app.staging.text-web": Origin.OVERLAY,  # of the environment
    }


def test_every_value_says_where_it_was_written(tmp_path: Path) -> None:
    """Seen red with the origins of settings alone."""
    overlay = "environments: {main: {}, staging: {apps: {text-web: {protect: true}}}}\n"
    spec = load(tmp_path, HEAD + "gateway: {ephemeral: true}\n" + overlay + WEB, FILES)
    found = {
        a: plan.changes[a].attributes
        for plan in [make_plan(desired_resources(spec), State("demo", "l", 0), {})]
        for a in plan.changes
    }
    origins = {a: {".".join(x.path): x.origin for x in each} for a, each in found.items()}
    main, staging, gateway = origins["app.main.text-web"], origins["app.staging.text-web"], origins["gateway"]

    assert (main["command"], main["endpoint"], main["kind"]) == (Origin.SPEC,) * 3
    assert (staging["command"], staging["protect"]) == (Origin.SPEC, Origin.OVERLAY)
    assert (gateway["ephemeral"], gateway["project"]) == (Origin.SPEC, Origin.SPEC)
    assert {gateway["provider"], gateway["regions.local.provider"]} == {Origin.DEFAULT}


def test_without_tags_an_app_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    """Seen red with `tags: {}` among the inputs: the first plan of a new falplan changed every app."""
    web = desired_resources(load(tmp_path, HEAD + WEB, FILES))["app.main.web"]

    assert "tags" not in web.inputs["settings"]  # type: ignore[operator]  # it is a mapping
    assert "protect" not in web.inputs


@pytest.mark.parametrize(
    ("app", "environment", "overlay", "protected"),
    [
        ("", "", "", False),
        ("protect: true", "", "", True),
        ("", "protect: true", "", True),
        ("protect: false", "protect: true", "", False),
        ("protect: false", "", "protect: true", True),
        ("protect: true", "protect: true", "protect: false", False),
    ],
)
def test_an_apps_own_protection_wins_over_its_environments(
    app: str, environment: str, overlay: str, protected: bool, tmp_path: Path
) -> None:
    spec = (
        HEAD
        + f"""\
environments:
  staging:
    {environment or "tags: {{}}".replace("{{", "{").replace("}}", "}")}
    secrets: {{TOKEN: {{env: TOKEN}}}}
    apps: {{web: {{{overlay}}}}}
apps:
  web: {{command: serve, files: [a.py]{", " + app if app else ""}}}
"""
    )
    found = desired_resources(load(tmp_path, spec, FILES))

    assert found["app.staging.web"].protected is protected
    assert (found["app.staging.web"].inputs.get("protect") is True) is protected
    assert found["secret.staging.TOKEN"].protected is bool(environment)


def test_a_gateway_is_protected_without_another_word_about_it(tmp_path: Path) -> None:
    gateway = desired_resources(load(tmp_path, HEAD + "gateway: {url: 'https://x.example', protect: true}\n"))[
        "gateway"
    ]

    assert gateway.protected
    assert gateway.inputs["protect"] is True
    assert gateway.inputs["url"] == "https://x.example"


def test_expressions_are_kept_and_everything_beside_them_is_rendered(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        HEAD
        + """\
variables: {where: {default: main}, most: {type: int, default: 3}}
policies:
  a:
    rule: maximum_runners
    parameters: {runners: "{{ var.most }}"}
    environments: ["{{ var.where }}"]
  b: {deny: "{{ app.keep_alive > 1 and change.type == 'app' }}", error: "{{ app.name }}"}
checks: {c: {assert: "{{ apps.main.items() | length == 2 and cost.max < var.most }}", error: "{{ cost.max }}"}}
outputs: {o: {value: "{{ apps.main['text-web'].url }}/{{ var.most }}"}}
"""
        + WEB,
        FILES,
    )
    one, two = spec.policies

    assert (one.parameters.runners, one.environments) == (3, ("main",))
    assert (two.deny, two.names) == (
        "{{ app.keep_alive > 1 and change.type == 'app' }}",
        (("app", "keep_alive"), ("change", "type")),
    )
    assert spec.checks[0].assertion.startswith("{{ apps.main.items()")
    assert spec.outputs[0].names == (("apps", "main", "text-web", "url"), ("var", "most"))


def test_rules_of_several_files_are_united(tmp_path: Path) -> None:
    from falplan.stores.spec import load_spec

    (tmp_path / "a.yaml").write_text(HEAD + "tags: {one: x}\nchecks: {a: {assert: '{{ true }}', error: no}}\n")
    (tmp_path / "b.yaml").write_text(
        "version: 1\ntags: {two: y}\nchecks: {b: {assert: '{{ true }}', error: no}}\n" + WEB
    )
    (tmp_path / "a.py").write_text("")
    spec = load_spec(tmp_path, tmp_path)

    assert [c.name for c in spec.checks] == ["a", "b"]
    assert value_of(spec.apps[0], "tags") == {"one": "x", "two": "y"}


DOCUMENTED = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[3] / "docs/policies.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", DOCUMENTED, ids=lambda block: block.split(":")[0])
def test_what_the_documentation_shows_loads(block: str, tmp_path: Path) -> None:
    app = "text-to-image: {app: app.py::TextToImage}"
    more = "" if "apps:" in block else f"apps: {{{app}}}\n"
    if "outputs.url" in block and "outputs:" not in block:
        more += "outputs: {url: {value: x}}\n"

    load(tmp_path, HEAD + block + more, {"app.py": "import fal\n\n\nclass TextToImage(fal.App):\n    pass\n"})
