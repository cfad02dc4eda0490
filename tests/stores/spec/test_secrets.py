"""Secrets in the spec: where each is read from, which app gets which, and that environments share none."""

from __future__ import annotations

from pathlib import Path

import pytest

from falplan.core.errors import SpecInvalid
from falplan.core.resources import Resource, desired_resources
from falplan.core.spec.resolved import ResolvedSpec
from falplan.stores.spec import load_spec

SPEC = """\
version: 1
project: demo
variables: {who: {type: str, default: ops}}
environments:
  main:
    secrets:
      TOKEN: {env: "TOKEN_{{ var.who }}_{{ environment }}"}
      KEY: {file: keys/main.pem}
      API: {command: [pass, show, "{{ project }}/api"]}
      KEPT: {stored: true}
  staging:
    apps: all
    secrets:
      TOKEN: {env: STAGING}
apps:
  all: {command: x}
  some: {command: x, secrets: [TOKEN]}
  none: {command: x, secrets: []}
  own: {app: "app.py::App"}
"""

APP = "import fal\nclass App(fal.App):\n    secrets = ['TOKEN']\n"


def load(folder: Path, spec: str = SPEC, app: str = APP) -> ResolvedSpec:
    (folder / "falplan.yaml").write_text(spec)
    (folder / "app.py").write_text(app)
    return load_spec(folder)


def resources(spec: ResolvedSpec) -> dict[str, Resource]:
    return desired_resources(spec, {s.address: {"source": dict(s.source), "fingerprint": "k:1"} for s in spec.secrets})


def test_each_source_is_resolved_with_its_place(tmp_path: Path) -> None:
    spec = load(tmp_path)
    found = {s.address: s.source for s in spec.secrets}

    assert found == {
        "secret.main.TOKEN": {"env": "TOKEN_ops_main"},
        "secret.main.KEY": {"file": "keys/main.pem"},
        "secret.main.API": {"command": ["pass", "show", "demo/api"]},
        "secret.main.KEPT": {"stored": True},
        "secret.staging.TOKEN": {"env": "STAGING"},
    }
    assert str(spec.secrets[0].position) == "falplan.yaml:7:7"


def test_an_app_gets_those_that_it_lists_or_all_of_its_environment(tmp_path: Path) -> None:
    found = resources(load(tmp_path))
    given = {a: r.inputs.get("secrets") for a, r in found.items() if a.startswith("app.")}

    assert given == {
        "app.main.all": ["API", "KEPT", "KEY", "TOKEN"],
        "app.main.some": ["TOKEN"],
        "app.main.none": None,
        "app.main.own": ["TOKEN"],
        "app.staging.all": ["TOKEN"],
        "app.staging.some": ["TOKEN"],
        "app.staging.none": None,
        "app.staging.own": ["TOKEN"],
    }


def test_an_app_depends_on_its_secrets_and_they_on_the_gateway(tmp_path: Path) -> None:
    found = resources(load(tmp_path))

    assert found["app.staging.some"].dependencies == ("gateway", "secret.staging.TOKEN")
    assert found["app.main.own"].dependencies == ("build.main.own", "secret.main.TOKEN")
    assert found["secret.main.KEY"].dependencies == ("gateway",)


def test_listing_what_it_gets_anyway_changes_nothing(tmp_path: Path) -> None:
    listed = SPEC.replace("all: {command: x}", "all: {command: x, secrets: [TOKEN, KEY, API, KEPT]}")
    before, after = resources(load(tmp_path))["app.main.all"], resources_of_main(tmp_path, listed)

    assert after.inputs == before.inputs


def resources_of_main(folder: Path, spec: str) -> Resource:
    """The app `all` in main of a spec whose staging has no apps."""
    return resources(load(folder, spec.replace("    apps: all\n", "")))["app.main.all"]


def test_an_app_without_secrets_has_the_inputs_that_it_always_had(tmp_path: Path) -> None:
    """So that what was applied by an earlier version is not deployed again."""
    inputs = resources(load(tmp_path))["app.main.none"].inputs

    assert "secrets" not in inputs
    assert "secrets" not in str(inputs["settings"])


def test_environments_share_no_secrets(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as raised:
        load(tmp_path, SPEC.replace("secrets: [TOKEN]}", "secrets: [KEY]}"))
    (found,) = raised.value.diagnostics

    assert found.message == 'no secret "KEY" in environment "staging"'
    assert str(found.position) == "falplan.yaml:17:32"
    assert found.hint.startswith('environment "main" has it; environments share no secrets')


def test_a_misspelt_name_is_met_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as raised:
        load(tmp_path, app=APP.replace("'TOKEN'", "'TOKENS'"))
    found = raised.value.diagnostics[0]

    assert (found.code, found.hint) == ("SPEC024", 'did you mean "TOKEN"?')


def test_a_value_in_the_spec_is_refused_and_its_line_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as raised:
        load(tmp_path, SPEC.replace("{file: keys/main.pem}", "hunter2hunter2"))
    (found,) = raised.value.diagnostics

    assert found.code == "SPEC041"
    assert "{env: NAME}" in found.hint
    assert "hunter2" not in repr(found)
