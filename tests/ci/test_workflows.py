"""The documented workflows from a merge to drift, with a real control plane and state in S3; and falplan set up as on GitHub."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.stores.state.servers import KEYS, make_bucket, s3_server

from .conftest import PROJECT_KEY, SECRETS, SPEC, write_repository
from .forge import TOKEN, Forge
from .runner import ACTIONS, ROOT, GitLab, Machine, Run, base_environ, read_outputs, read_yaml

pytestmark = [pytest.mark.faults, pytest.mark.needs("jq"), pytest.mark.needs("curl"), pytest.mark.timeout(900)]
GITHUB = ROOT / "examples" / "ci" / "github"
GITLAB = ROOT / "examples" / "ci" / "gitlab"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        make_bucket(url, "states")
        yield url


@pytest.fixture
def spec(s3: str, tmp_path: Path) -> str:
    """State lies where every job reaches it, so that each can have a checkout of its own."""
    state = f"{{backend: s3, bucket: states, key: {tmp_path.name}/state.json, region: us-east-1, endpoint_url: '{s3}'}}"
    return SPEC.replace("apps:\n", f"state: {state}\napps:\n")


@pytest.fixture
def merged(tmp_path: Path, github: Forge, spec: str) -> Iterator[Machine]:
    """A machine on which a push to main starts workflows. What they deploy is destroyed."""
    event = {"ref": "refs/heads/main"}
    machine = Machine(tmp_path, github.url, event, SECRETS, {**KEYS})
    write_repository(machine.origin, spec)
    machine.commit()
    yield machine
    _falplan(machine, "destroy", "--auto-approve")


def _falplan(machine: Machine, *args: str) -> subprocess.CompletedProcess[str]:
    environ = base_environ(machine.folder, {**machine.environ, "FALPLAN_PROJECT_KEY": PROJECT_KEY})
    argv = [sys.executable, "-m", "falplan", "-C", str(machine.origin / "deploy"), *args]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=120, cwd=machine.folder)


def test_from_a_merge_to_drift_and_back(merged: Machine, github: Forge) -> None:
    """Plan, artifact, apply in another checkout; nothing to apply; an issue opened, edited, closed.

    Seen red with an issue that is never found again: each look opened another one.
    """
    applied = merged.workflow(GITHUB / "apply.yml")

    assert not applied["apply"].failed, applied["plan"].log + applied["apply"].log
    assert "Apply complete! 2 added" in applied["apply"].log
    assert "✅ applied" in applied["apply"].summary
    assert merged.used.count("actions/download-artifact") == 1

    again = merged.workflow(GITHUB / "apply.yml")
    assert again["plan"].outputs["has-changes"] == "false", again["plan"].log
    assert again["apply"].skipped

    assert not merged.workflow(GITHUB / "drift.yml")["drift"].failed
    assert github.issues == []

    assert _falplan(merged, "apps", "scale", "web", "--max-concurrency", "3").returncode == 0
    first = merged.workflow(GITHUB / "drift.yml")["drift"]
    assert _falplan(merged, "apps", "scale", "web", "--max-concurrency", "4").returncode == 0
    merged.workflow(GITHUB / "drift.yml")

    assert not first.failed, first.log
    (issue,) = github.issues
    assert issue["state"] == "open"
    assert issue["title"] == "Drift of deploy"
    assert "`2` → `4`" in issue["body"]
    assert merged.action("drift", directory="deploy", fail_on_drift="true").failed

    assert _falplan(merged, "apps", "reset", "web").returncode == 0
    merged.workflow(GITHUB / "drift.yml")

    assert [i["state"] for i in github.issues] == ["closed"]
    assert "In sync again." in issue["body"]
    merged.workflow(GITHUB / "drift.yml")
    assert len(github.issues) == 1


def test_a_plan_that_was_edited_or_is_stale_is_not_applied(merged: Machine) -> None:
    planned = merged.action("plan", {"FALPLAN_PROJECT_KEY": PROJECT_KEY}, directory="deploy", save="true")
    file = Path(planned.outputs["plan-file"])
    edited = merged.folder / "edited.plan"
    edited.write_bytes(file.read_bytes().replace(b"python3", b"python2"))
    key = {"FALPLAN_PROJECT_KEY": PROJECT_KEY}
    refused = merged.action("apply", key, directory="deploy", plan_file=str(edited))
    good = merged.action("apply", key, directory="deploy", plan_file=str(file))
    stale = merged.action("apply", key, directory="deploy", plan_file=str(file))

    assert (refused.failed, refused.outputs["exit-code"]) == (True, "6"), refused.log
    assert (good.failed, good.outputs["exit-code"]) == (False, "0"), good.log
    assert (stale.failed, stale.outputs["exit-code"]) == (True, "6"), stale.log
    assert "refused; nothing was touched" in stale.summary


def test_drift_that_nobody_can_tell_fails_the_job_and_leaves_the_issue(merged: Machine, github: Forge) -> None:
    """Seen red with exit code 1 taken for 0: a look that failed would have closed an issue."""
    ran = merged.action("drift", directory="deploy")  # nothing was applied yet

    assert ran.failed
    assert ran.outputs["exit-code"] == "1"
    assert ran.outputs["has-drift"] == ""
    assert github.requests == []
    assert "Nothing was applied yet" in ran.summary


def test_a_cancelled_apply_ends_what_it_began(merged: Machine) -> None:
    """GitHub signals the step's shell alone. Seen red without the trap: bash went away, and falplan went on."""
    run = Run(merged, 50, {"needs": {}})
    run.steps([{"uses": "actions/checkout@" + "0" * 40}, {"uses": f"acme/falplan/.github/actions/setup@{'0' * 40}"}],
              inputs={}, environ={})  # fmt: skip
    (step,) = read_yaml(ACTIONS / "apply" / "action.yml")["runs"]["steps"]
    given = {"DIRECTORY": "deploy", "PLAN_FILE": "", "ENVIRONMENT": "", "ARGS": "", "LOCK_TIMEOUT": "60"}
    prepared = run.prepare(step["run"], {**given, "FALPLAN_PROJECT_KEY": PROJECT_KEY}, ACTIONS / "apply")
    process = subprocess.Popen(
        prepared.argv, cwd=run.workspace, env=prepared.environ, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        log = []
        for line in process.stdout:
            log.append(line)
            if line.startswith("gateway: starting"):
                break
        process.send_signal(signal.SIGINT)
        log.append(process.stdout.read())
        code = process.wait(60)

    assert code == 143, "".join(log)
    assert read_outputs(prepared.outputs)["exit-code"] == "143"
    assert "interrupted; state is saved" in run.summary.read_text()
    assert _falplan(merged, "apply", "--auto-approve").returncode == 0
    assert _falplan(merged, "plan", "--detailed-exitcode").returncode == 0


def test_the_setup_action_installs_this_commit_by_hash(tmp_path: Path, github: Forge) -> None:
    """pip for real, from the lock file; nothing but `falplan` gets on PATH."""
    machine = Machine(tmp_path, github.url, {}, SECRETS, real_setup=True)
    write_repository(machine.origin)
    machine.commit()
    run = Run(machine, 0, {"needs": {}})
    ended = run.steps(
        [{"uses": "actions/checkout@" + "0" * 40}, {"uses": f"acme/falplan/.github/actions/setup@{'0' * 40}", "id": "it"}],
        inputs={}, environ={"PYTHONPATH": ""},
    )  # fmt: skip

    assert not ended.failed, ended.log
    assert run.step_outputs["it"]["version"].startswith("falplan, version ")
    assert [p.name for p in Path(run.path[0]).iterdir()] == ["falplan"]
    refused = run.steps(
        [{"uses": f"acme/falplan/.github/actions/setup@{'0' * 40}", "with": {"version": "1.0 --index-url=x"}}],
        inputs={}, environ={},
    )  # fmt: skip
    assert refused.failed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    subprocess.run([find_uv_bin(), "build", "--wheel", "--quiet", "--out-dir", str(target), str(ROOT)],
                   check=True, timeout=150)  # fmt: skip
    (built,) = target.glob("*.whl")
    return built


def test_gitlab_from_a_merge_request_to_drift(tmp_path: Path, spec: str, gitlab: Forge) -> None:
    """Each job's whole script, in a clone; falplan is installed by `before_script` in the first of them."""
    machine = Machine(tmp_path, gitlab.url, {}, SECRETS, {**KEYS})
    write_repository(machine.origin, spec)
    (machine.origin / "ci").mkdir()
    (machine.origin / "ci" / "sticky.py").write_text((GITLAB / "ci" / "sticky.py").read_text())
    machine.commit()
    environ = {**KEYS, "FALPLAN_PROJECT_KEY": PROJECT_KEY, "FALPLAN_GITLAB_TOKEN": TOKEN, "CI_API_V4_URL": gitlab.url}
    runner = GitLab(tmp_path, environ)
    file = GITLAB / ".gitlab-ci.yml"
    base = {"CI_DEFAULT_BRANCH": "main"}
    request = {**base, "CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "9"}  # fmt: skip
    push = {**base, "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"}
    schedule = {**base, "CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_BRANCH": "main"}
    try:
        assert runner.chosen(file, request) == {"plan": "on_success"}
        assert runner.chosen(file, push) == {"plan-main": "on_success", "apply": "manual"}
        assert runner.chosen(file, {**push, "FALPLAN_AUTO_APPLY": "true"})["apply"] == "on_success"
        assert runner.chosen(file, schedule) == {"drift": "on_success"}
        assert runner.chosen(file, {**push, "CI_COMMIT_BRANCH": "other"}) == {}

        first = runner.run(file, "plan", machine.origin, request)
        runner.run(file, "plan", machine.origin, request)
        assert first.returncode == 0, first.stdout
        assert [r.split("?")[0] for r in gitlab.writes()] == [
            "POST /projects/9/merge_requests/7/notes",
            "PUT /projects/9/merge_requests/7/notes/500",
        ]
        assert "Plan: 2 to add" in gitlab.comments[0]["body"]

        planned = runner.run(file, "plan-main", machine.origin, push)
        applied = runner.run(file, "apply", machine.origin, push)
        assert (planned.returncode, applied.returncode) == (0, 0), planned.stdout + applied.stdout
        assert "Apply complete! 2 added" in applied.stdout

        assert runner.run(file, "drift", machine.origin, schedule).returncode == 0
        assert gitlab.issues == []
        assert _falplan(machine, "apps", "scale", "web", "--max-concurrency", "3").returncode == 0
        runner.run(file, "drift", machine.origin, schedule)
        runner.run(file, "drift", machine.origin, schedule)
        assert [(i["state"], i["title"]) for i in gitlab.issues] == [("opened", "Drift of deploy")]
        assert _falplan(machine, "apps", "reset", "web").returncode == 0
        assert runner.run(file, "drift", machine.origin, schedule).returncode == 0
        assert [i["state"] for i in gitlab.issues] == ["closed"]
    finally:
        _falplan(machine, "destroy", "--auto-approve")


def test_gitlab_a_plan_that_fails_fails_the_job_and_the_note_says_why(tmp_path: Path, gitlab: Forge) -> None:
    machine = Machine(tmp_path, gitlab.url, {}, SECRETS)
    secret = "environments: {main: {secrets: {STOLEN: {command: [touch, ../pwned]}}}}\n"
    write_repository(machine.origin, SPEC.replace("apps:\n", secret + "apps:\n"))
    (machine.origin / "ci").mkdir()
    (machine.origin / "ci" / "sticky.py").write_text((GITLAB / "ci" / "sticky.py").read_text())
    runner = GitLab(tmp_path, {"FALPLAN_GITLAB_TOKEN": TOKEN, "CI_API_V4_URL": gitlab.url})
    request = {"CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "10"}
    fork = runner.run(GITLAB / ".gitlab-ci.yml", "plan", machine.origin, request)
    (machine.origin / "deploy" / "falplan.yaml").write_text(SPEC + "  broken: {comand: x}\n")
    broken = runner.run(GITLAB / ".gitlab-ci.yml", "plan", machine.origin, request)

    assert fork.returncode == 0, fork.stdout
    assert not (machine.origin / "pwned").exists()
    assert broken.returncode == 3
    assert len(gitlab.comments) == 1
    assert 'did you mean "command"' in gitlab.comments[0]["body"]


def test_gitlabs_before_script_installs_falplan_by_hash(tmp_path: Path, wheel: Path, gitlab: Forge) -> None:
    """The wheel lies where a release's would; everything else is what `.ci/requirements/locked.txt` pins."""
    digest = subprocess.run(["sha256sum", str(wheel)], capture_output=True, text=True, check=True).stdout.split()[0]
    folder = tmp_path / "checkout"
    (folder / "ci").mkdir(parents=True)
    (folder / "deploy").mkdir()
    pins = (ROOT / ".ci" / "requirements" / "locked.txt").read_text()
    (folder / "ci" / "requirements.txt").write_text(f"{pins}\nfalplan @ file://{wheel} --hash=sha256:{digest}\n")
    runner = GitLab(tmp_path, {"PYTHONPATH": "", "CI_API_V4_URL": gitlab.url}, real_setup=True)
    ran = runner.run(GITLAB / ".gitlab-ci.yml", "drift", folder, {})

    assert ran.returncode == 3, ran.stdout  # falplan itself, which finds no spec there
    assert "falplan.yaml" in ran.stdout
