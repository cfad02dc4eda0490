"""Policy tools that know Terraform alone read `plan --json` unchanged, and judge falplan's resources by it.

checkov pins libraries that falplan cannot live with, so uv runs it in an environment of its own, from its cache if it is there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from regopy import Interpreter
from uv import find_uv_bin

from tests.cli.test_commands import falplan

CHECKOV = "checkov==3.3.30"
SPEC = """
version: 1
project: demo
apps:
  front: {command: [python3, front.py], files: [front.py], auth: AUTH, max_concurrency: 2}
"""
YAML_POLICY = """
metadata: {id: CKV2_FALPLAN_1, name: No app is public, category: NETWORKING}
definition:
  cond_type: attribute
  resource_types: [falplan_app]
  attribute: settings.auth
  operator: not_equals
  value: public
"""
REGO_POLICY = """
package falplan
import rego.v1

deny contains message if {
    some change in input.resource_changes
    change.type == "falplan_app"
    "create" in change.change.actions
    change.change.after.settings.auth == "public"
    message := sprintf("%s is public", [change.address])
}

deny contains message if {
    some change in input.resource_changes
    "delete" in change.change.actions
    message := sprintf("%s is destroyed", [change.address])
}

complete if input.complete
"""


@pytest.fixture(params=["public", "private"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """How the app may be called, and the file with the plan that says so."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "falplan.yaml").write_text(SPEC.replace("AUTH", request.param))
    (project / "front.py").write_text("")
    done = falplan(project, "plan", "--json-into", "plan.json")
    assert done.returncode == 0, done.stderr
    return request.param, project / "plan.json"


def test_a_rego_policy_judges_the_plan(plan: tuple[str, Path]) -> None:
    """Seen red with `settings` left out of `after`."""
    auth, path = plan
    rego = Interpreter()
    rego.add_module("falplan", REGO_POLICY)
    rego.set_input(json.loads(path.read_text()))
    denied: Any = json.loads(str(rego.query("data.falplan.deny")))["expressions"][0]

    assert denied == (["app.main.front is public"] if auth == "public" else [])
    assert json.loads(str(rego.query("data.falplan.complete")))["expressions"] == [True]


@pytest.fixture(scope="module")
def checkov() -> list[str]:
    """The command that runs checkov; skipped by name where no registry has it, an error where CI=true promises one."""
    command = [find_uv_bin(), "tool", "run", "--quiet", "--from", CHECKOV, "checkov"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=170)
    if done.returncode != 0:
        message = f"needs {CHECKOV}, which can't be installed here: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return command


def test_a_checkov_policy_judges_the_plan(plan: tuple[str, Path], checkov: list[str], tmp_path: Path) -> None:
    """Seen red with `planned_values` without the values: then nothing is checked, and nothing fails."""
    auth, path = plan
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "public.yaml").write_text(YAML_POLICY)
    options = ["--framework", "terraform_plan", "--external-checks-dir", str(policies), "--check", "CKV2_FALPLAN_1"]
    done = subprocess.run(
        [*checkov, "--file", str(path), *options, "--output", "json", "--skip-download"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    summary, failed = found["summary"], found["results"]["failed_checks"]

    assert done.returncode == (1 if auth == "public" else 0), done.stderr
    assert (summary["failed"], summary["passed"]) == ((1, 0) if auth == "public" else (0, 1))
    assert [f["resource"] for f in failed] == (["app.main.front"] if auth == "public" else [])
