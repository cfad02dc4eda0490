"""Policy tools that know Terraform alone read `plan --json` unchanged, and judge falplan's resources by it.

checkov pins libraries that falplan cannot live with, so uv runs it in an environment of its own, from its cache if it is there.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regopy import Interpreter
from uv import find_uv_bin

from falplan.sdk.testing.fakeec2 import fake_ec2
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


REGION = """
version: 1
project: demo
gateway: {ephemeral: true}
regions:
  east:
    provider: aws
    region: us-east-1
    max_machines: 2
    budget_per_hour: 9
    public: false
    ssh_from: 10.0.0.1/32
    image: ami-0123456789abcdef0
    tags: {team: ml}
    endpoints: {ec2: URL, ssm: URL}
"""
ALLOWED = {"CKV_AWS_382", "CKV2_AWS_5"}
"""Machines fetch packages, images and models from wherever they are: nothing limits what they may reach. And the plan has no references
between Terraform's types, by which the other rule would see that machines are in the group."""


@pytest.fixture(scope="module")
def cloud_plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan of a region of AWS, as other tools read it."""
    folder = tmp_path_factory.mktemp("cloud")
    keys = {"AWS_ACCESS_KEY_ID": "AKIAFAKE", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    with fake_ec2() as fake:
        (folder / "falplan.yaml").write_text(REGION.replace("URL", f'"{fake.url}"'))
        argv = [sys.executable, "-m", "falplan", "-C", str(folder), "plan", "--json"]
        environ = {**os.environ, **keys, "XDG_STATE_HOME": str(folder / "state"), "CI": ""}
        done = subprocess.run(argv, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


TWINS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "open": ("aws_security_group", lambda v: v["ingress"][0].update(cidr_blocks=["0.0.0.0/0"]), "CKV_AWS_24"),
    "v1": ("aws_launch_template", lambda v: v["metadata_options"][0].update(http_tokens="optional"), "CKV_AWS_79"),
    "far": (
        "aws_launch_template",
        lambda v: v["metadata_options"][0].update(http_put_response_hop_limit=2),
        "CKV_AWS_341",
    ),
    "public": (
        "aws_launch_template",
        lambda v: v["network_interfaces"][0].update(associate_public_ip_address="true"),
        "CKV_AWS_88",
    ),
}
"""Resources of the plan, each with one thing changed, and the rule that has to see it."""


def with_twins(plan: dict[str, Any]) -> dict[str, Any]:
    body = copy.deepcopy(plan)
    resources = body["planned_values"]["root_module"]["resources"]
    for name, (kind, change, _) in TWINS.items():
        [found] = [r for r in plan["planned_values"]["root_module"]["resources"] if r["type"] == kind]
        twin = {**copy.deepcopy(found), "name": name, "address": f"{kind}.{name}"}
        change(twin["values"])
        resources.append(twin)
    return body


def test_checkovs_own_rules_pass_on_what_is_made_at_aws_and_go_red_on_twins_that_are_open(
    cloud_plan: dict[str, Any], checkov: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(with_twins(cloud_plan)))
    options = ["--framework", "terraform_plan", "--output", "json", "--skip-download"]
    done = subprocess.run(
        [*checkov, "--file", str(path), *options], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    results = json.loads(done.stdout)["results"]
    passed = {f["check_id"] for f in results["passed_checks"] if f["resource"].endswith(".east")}
    failed = {f["check_id"] for f in results["failed_checks"] if f["resource"].endswith(".east")}
    red = {(f["resource"], f["check_id"]) for f in results["failed_checks"]}

    assert failed <= ALLOWED, failed
    assert {"CKV_AWS_23", "CKV_AWS_24", "CKV_AWS_79", "CKV_AWS_88", "CKV_AWS_341"} <= passed
    assert {(f"{kind}.{name}", rule) for name, (kind, _, rule) in TWINS.items()} <= red
