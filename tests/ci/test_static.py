"""What tools that know GitHub's and GitLab's files say of ours; and what is pinned."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .runner import ACTIONS, ROOT, read_yaml

ACTION_FILES = sorted(ACTIONS.glob("*/action.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EXAMPLES = sorted((ROOT / "examples" / "ci" / "github").glob("*.yml"))
GITLAB = ROOT / "examples" / "ci" / "gitlab" / ".gitlab-ci.yml"


def zizmor(*files: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("zizmor")
    argv = [str(program), "--offline", "--persona=pedantic", "--no-progress", *map(str, files)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_zizmor_finds_nothing_in_actions_workflows_and_examples() -> None:
    """Offline, with the rules of its pedantic persona, too."""
    done = zizmor(*ACTION_FILES, *WORKFLOWS, *EXAMPLES)

    assert done.returncode == 0, done.stdout
    assert "No findings to report" in done.stdout


@pytest.mark.parametrize(
    ("ours", "theirs", "finding"),
    [
        (r"@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2", "@v4", "unpinned-uses"),
        (r"  pull_request:", "  pull_request_target:", "dangerous-triggers"),
        (r"permissions: {}", "permissions: write-all", "excessive-permissions"),
        (r"        with:\n          persist-credentials: false\n", "", "artipacked"),
        (
            r"        with:\n          directory: deploy",
            "      - run: echo ${{ github.head_ref }}",
            "template-injection",
        ),
    ],
)
def test_zizmor_would_find(tmp_path: Path, ours: str, theirs: str, finding: str) -> None:
    """The test above is seen red with each of these."""
    broken = tmp_path / ".github" / "workflows" / "plan.yml"
    broken.parent.mkdir(parents=True)
    text = (ROOT / "examples/ci/github/plan.yml").read_text()
    broken.write_text(re.sub(ours, theirs, text))

    assert broken.read_text() != text
    assert f"[{finding}]" in zizmor(broken).stdout


@pytest.mark.parametrize(
    ("schema", "files"),
    [("github-actions", ACTION_FILES), ("github-workflows", WORKFLOWS + EXAMPLES), ("gitlab-ci", [GITLAB])],
)
def test_files_are_as_the_schemas_of_github_and_gitlab_say(schema: str, files: list[Path]) -> None:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    argv += ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []
    done = subprocess.run([*argv, *map(str, files)], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", [*ACTION_FILES, *WORKFLOWS, *EXAMPLES], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_actions_of_others_are_pinned_by_commit_with_the_version_beside_it(file: Path) -> None:
    for line in file.read_text().splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # (v\d+\.\d+\.\d+|the release that you use)$", line), line


def test_one_action_has_one_pin() -> None:
    pins: dict[str, set[str]] = {}
    for file in [*ACTION_FILES, *WORKFLOWS, *EXAMPLES]:
        for name, pin in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", file.read_text()):
            pins.setdefault(name, set()).add(pin)

    assert [name for name, found in pins.items() if len(found) > 1] == []


def test_workflows_have_no_long_lived_keys_and_no_permission_that_is_not_explained() -> None:
    for file in [*WORKFLOWS, *EXAMPLES]:
        body = read_yaml(file)
        text = file.read_text()
        assert "AWS_SECRET_ACCESS_KEY" not in text
        assert "aws-secret-access-key" not in text
        for job in body["jobs"].values():
            for permission, level in job.get("permissions", {}).items():
                if level == "write":
                    assert re.search(rf"{permission}: write # \w", text), permission


@pytest.mark.needs("bash")
def test_every_script_is_bash_without_errors(tmp_path: Path) -> None:
    """bash -n reads each script, and shellcheck where it is installed."""
    scripts = []
    for file in ACTION_FILES:
        scripts += [s["run"] for s in read_yaml(file)["runs"]["steps"] if "run" in s]
    scripts += [line for job in read_yaml(GITLAB).values() if isinstance(job, dict) for line in job.get("script", [])]

    for number, script in enumerate(scripts):
        path = tmp_path / f"{number}.sh"
        path.write_text(f"#!/bin/bash\n{script}")
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)
        if shutil.which("shellcheck"):
            done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout
