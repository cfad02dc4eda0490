"""The plan action: each step's shell is run with bash, with the real falplan, against a server that plays GitHub."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from .conftest import SPEC, pull_request, write_repository
from .forge import LONGEST, Forge
from .runner import ROOT, Machine

pytestmark = [pytest.mark.needs("jq"), pytest.mark.needs("curl")]
WORKFLOW = ROOT / "examples" / "ci" / "github" / "plan.yml"


def test_the_first_run_comments_and_the_next_ones_edit_that_comment(machine: Machine, github: Forge) -> None:
    """Seen red with a marker that held a path of the job: the second run made a second comment."""
    first = machine.action("plan", directory="deploy")
    write_repository(
        machine.origin, SPEC + "  shop: {command: python3 server.py, files: [server.py], machine_type: XS}\n"
    )
    machine.commit()
    second = machine.action("plan", directory="deploy")

    assert (first.failed, second.failed) == (False, False), first.log + second.log
    assert first.outputs["has-changes"] == "true"
    assert first.outputs["exit-code"] == "2"
    assert json.loads(Path(first.outputs["json-file"]).read_text())["resource_changes"]
    assert github.writes() == [
        "POST /repos/acme/shop/issues/7/comments",
        "PATCH /repos/acme/shop/issues/comments/500",
    ]
    (comment,) = github.comments
    assert comment["body"].startswith("<!-- falplan plan ")
    assert "Plan: 3 to add, 0 to change, 0 to destroy." in comment["body"]
    assert "`app.main.shop` will be created" in comment["body"]
    assert "actions/runs/99) of abc1234" in comment["body"]
    assert comment["body"] == second.summary
    assert "+ app.main.shop will be created" in second.log


@pytest.mark.faults
def test_other_directories_and_environments_have_comments_of_their_own(machine: Machine, github: Forge) -> None:
    write_repository(machine.origin, SPEC.replace("apps:\n", "environments: {main: {}, staging: {apps: all}}\napps:\n"))
    machine.commit()
    machine.action("plan", directory="deploy")
    machine.action("plan", directory="deploy", environment="staging")

    assert len({c["body"].splitlines()[0] for c in github.comments}) == len(github.comments) == 2


@pytest.mark.faults
def test_a_comment_is_found_on_a_later_page_and_only_a_bots_is_edited(machine: Machine, github: Forge) -> None:
    """Seen red with one request for the first page, and with a comparison of the marker alone."""
    machine.action("plan", directory="deploy")
    ours = github.comments.pop()
    copied = {"id": 1, "user": {"type": "User"}, "body": ours["body"]}
    others = [{"id": 2 + n, "user": {"type": "User"}, "body": None} for n in range(120)]
    github.comments[:] = [copied, *others, ours]
    ran = machine.action("plan", directory="deploy")

    assert not ran.failed, ran.log
    assert github.writes()[1:] == ["PATCH /repos/acme/shop/issues/comments/500"]


@pytest.mark.faults
def test_a_plan_too_long_for_a_comment_is_cut_and_the_log_has_all_of_it(machine: Machine, github: Forge) -> None:
    variables = ", ".join(f"V{n}: {'x' * 40}" for n in range(60))
    apps = "".join(
        f"  app-{n:02}: {{command: python3 server.py, files: [server.py], machine_type: XS, environment_variables: {{{variables}}}}}\n"
        for n in range(20)
    )
    write_repository(machine.origin, SPEC + apps)
    machine.commit()
    ran = machine.action("plan", directory="deploy")

    assert not ran.failed, ran.log[-3000:]
    (comment,) = github.comments
    assert 50_000 < len(comment["body"].encode()) < LONGEST
    assert all(f"app.main.app-{n:02} will be created" in ran.log for n in range(20))


FAILING = {
    "invalid spec": (3, SPEC + "  broken: {comand: x}\n", "the spec is invalid", 'did you mean "command"'),
    "policy": (6, SPEC + "policies: {closed: {rule: no_public_apps}}\n", "refused", "no_public_apps"),
    "unreachable gateway": (1, SPEC.replace("{provider: local, ephemeral: true}", "{url: 'https://127.0.0.1:9/'}"), "it failed", "can't be reached"),
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("name", FAILING)
def test_a_plan_that_fails_fails_the_job_and_the_comment_says_why(machine: Machine, github: Forge, name: str) -> None:
    """Seen red with `falplan … || true`, and with a comment step that runs only after success."""
    code, spec, words, detail = FAILING[name]
    write_repository(machine.origin, spec)
    machine.commit()
    ran = machine.action("plan", directory="deploy")

    assert ran.failed
    assert ran.outputs["exit-code"] == str(code), ran.log
    assert ran.outputs["has-changes"] == ""
    assert ran.outputs["plan-file"] == ""
    (comment,) = github.comments
    assert words in comment["body"].splitlines()[1]
    assert detail in ran.log
    assert detail.split('"')[0] in comment["body"]


@pytest.mark.faults
def test_a_comment_that_is_refused_fails_the_job(machine: Machine, github: Forge) -> None:
    """Without `pull-requests: write` nobody would miss the comment. Seen red with curl without --fail-with-body."""
    github.refuses = True
    ran = machine.action("plan", directory="deploy")

    assert ran.failed
    assert "Resource not accessible by integration" in ran.log
    assert ran.outputs["has-changes"] == "true"


HOSTILE = "$(touch pwned)`touch pwned`\"; touch pwned; '\n--> ## <b>x</b> ${{ github.token }}"


def test_what_inputs_and_branches_are_named_does_nothing(machine: Machine, github: Forge) -> None:
    """Seen red with `${{ inputs.directory }}` in the script itself, and with arguments split by the shell."""
    event = pull_request()
    event["pull_request"]["head"]["ref"] = HOSTILE  # type: ignore[index]
    event["pull_request"]["title"] = HOSTILE  # type: ignore[index]
    machine.event = event
    write_repository(machine.origin, directory=HOSTILE.replace("/", "_"))
    machine.commit()
    planned = machine.action("plan", directory=HOSTILE.replace("/", "_"), args=f"--var\n\nx={HOSTILE.splitlines()[0]}")
    unknown = machine.action("plan", directory="deploy", environment=HOSTILE)
    looked = machine.action("drift", directory="deploy", environment=HOSTILE)
    applied = machine.action("apply", directory="deploy", plan_file=HOSTILE, lock_timeout=HOSTILE)

    assert [e.failed for e in (planned, unknown, looked, applied)] == [True, True, True, True]
    assert not list(machine.folder.rglob("pwned"))
    assert planned.outputs["exit-code"] == "3", planned.log
    assert "no variable" in planned.log, planned.log  # the whole value arrived as one argument
    assert {c["body"].splitlines()[0] for c in github.comments if c["body"].startswith("<!-- falplan plan ")} == {
        c["body"].splitlines()[0] for c in github.comments
    }
    assert all(c["body"].splitlines()[0].endswith(" -->") for c in github.comments)
    assert all(c["body"].count("-->") <= 1 + c["body"].count("    ") for c in github.comments)


@pytest.mark.faults
@pytest.mark.parametrize(
    "event", [pull_request(fork=True), pull_request(author="dependabot[bot]")], ids=["fork", "bot"]
)
def test_a_pull_request_of_a_stranger_is_planned_untrusted_and_gets_no_comment(
    machine: Machine, github: Forge, event: dict[str, object]
) -> None:
    """Its token could not comment; what it would run must not run. Seen red without the look at the event."""
    machine.event = event
    source = "environments: {main: {secrets: {STOLEN: {command: [touch, ../../pwned]}}}}\n"
    write_repository(machine.origin, SPEC.replace("apps:\n", source + "apps:\n"))
    machine.commit()
    ran = machine.action("plan", directory="deploy", save="true")
    trusted = machine.folder / "pwned"

    assert not ran.failed, ran.log
    assert not trusted.exists()
    assert not list(machine.folder.rglob("pwned"))
    assert ran.outputs["plan-file"] == ""
    assert github.requests == []
    assert "to add" in ran.summary


@pytest.mark.faults
def test_the_same_spec_of_a_member_does_run_its_command(machine: Machine) -> None:
    """So the test above would see it."""
    source = "environments: {main: {secrets: {STOLEN: {command: [touch, ../../pwned]}}}}\n"
    write_repository(machine.origin, SPEC.replace("apps:\n", source + "apps:\n"))
    machine.commit()
    machine.action("plan", directory="deploy")

    assert list(machine.folder.rglob("pwned"))


def test_the_documented_workflow_plans_a_pull_request(machine: Machine, github: Forge) -> None:
    ended = machine.workflow(WORKFLOW)

    assert not ended["plan"].failed, ended["plan"].log
    assert len(github.comments) == 1
    assert machine.used == ["actions/checkout", "aws-actions/configure-aws-credentials"]


@pytest.mark.faults
def test_the_documented_workflow_gives_a_fork_no_credentials(machine: Machine, github: Forge) -> None:
    machine.event = pull_request(fork=True)
    ended = machine.workflow(WORKFLOW)

    assert not ended["plan"].failed, ended["plan"].log
    assert machine.used == ["actions/checkout"]
    assert github.requests == []


def test_shell_words_are_never_made_of_inputs() -> None:
    """No `${{ }}` in any script of ours: values come in through `env` alone."""
    from .runner import ACTIONS, read_yaml

    scripts = [
        (file, step["run"])
        for file in [*ACTIONS.glob("*/action.yml"), *(ROOT / ".github/workflows").glob("*.yml"), *(ROOT / "examples/ci").rglob("*.yml")]
        for body in [read_yaml(file)]
        for steps in [body.get("runs", {}), *body.get("jobs", {}).values()]
        for step in steps.get("steps", [])
        if "run" in step
    ]  # fmt: skip

    assert len(scripts) > 6
    assert not [file for file, script in scripts if "${{" in script]
    assert all(
        shlex.split("true") and script.startswith("set -euo pipefail") for _, script in scripts if "\n" in script
    )
