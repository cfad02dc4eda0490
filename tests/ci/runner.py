"""Runs workflows of GitHub and jobs of GitLab on this machine: each step's shell for real, with bash, in a checkout of its own.

Actions of others can't be had here. What they do is small: `THEIRS` names each one that ours use, and fails for any other.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .expressions import as_text, fill, holds

ROOT = Path(__file__).parents[2]
ACTIONS = ROOT / ".github" / "actions"
OURS = re.compile(r"acme/falplan/\.github/actions/(\w+)@[0-9a-f]{40}")
BASH = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail")
"""As GitHub's runner starts `shell: bash`."""


PATIENCE = 600
"""Seconds after which a step counts as hung; one that installs everything takes a minute of a core that is its own."""


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2's booleans alone: `on:` is a key."""


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), YamlLoader)


@dataclass
class Ended:
    """How a job, or an action, ended. `log` is all that its steps printed."""

    failed: bool = False
    outputs: dict[str, str] = field(default_factory=dict)
    log: str = ""
    summary: str = ""
    skipped: bool = False


@dataclass
class Machine:
    """What jobs run on: a folder with an origin repository, and what they share. Each job has a checkout and a temporary folder of its own."""

    folder: Path
    api: str
    event: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    real_setup: bool = False  #: install falplan as the setup action does, instead of taking the one of this interpreter
    used: list[str] = field(default_factory=list)  #: actions of others, in order
    jobs: int = 0

    @property
    def origin(self) -> Path:
        return self.folder / "origin"

    def artifact(self, name: str) -> Path:
        return self.folder / "artifacts" / name

    def commit(self) -> None:
        """What is in the origin's files becomes its newest commit."""
        if not (self.origin / ".git").exists():
            _git(self.origin, "init", "--quiet", "--initial-branch=main")
        _git(self.origin, "add", "--all")
        _git(self.origin, "commit", "--quiet", "--allow-empty", "--message=change")

    def workflow(self, path: Path) -> dict[str, Ended]:
        """Run all jobs in the order of `needs`."""
        body = read_yaml(path)
        ended: dict[str, Ended] = {}
        for name, job in body["jobs"].items():
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else list(job.get("needs", []))
            assert all(n in ended for n in needs), "jobs stand in the order in which they run"
            ended[name] = self.job(job, {n: ended[n] for n in needs})
        return ended

    def job(self, job: Mapping[str, Any], needs: Mapping[str, Ended]) -> Ended:
        contexts = {"needs": {n: {"outputs": e.outputs} for n, e in needs.items()}}
        fine = not any(e.failed or e.skipped for e in needs.values())
        run = Run(self, self.jobs, contexts)
        self.jobs += 1
        if not holds(str(job.get("if", "")), run.contexts({}), run.status(failed=not fine)):
            return Ended(skipped=True)
        ended = run.steps(job["steps"], inputs={}, environ={})
        ended.outputs = {k: run.fill(v, ended) for k, v in job.get("outputs", {}).items()}
        ended.summary = run.summary.read_text() if run.summary.exists() else ""
        return ended

    def action(self, name: str, environ: Mapping[str, str] | None = None, **inputs: str) -> Ended:
        """Run one of our actions alone, in a checkout, after `setup`."""
        given = {"uses": "actions/checkout@" + "0" * 40}, {"uses": f"acme/falplan/.github/actions/setup@{'0' * 40}"}
        ours = {
            "id": "it",
            "uses": f"acme/falplan/.github/actions/{name}@{'0' * 40}",
            "with": {k.replace("_", "-"): v for k, v in inputs.items()},
            "env": dict(environ or {}),
        }
        run = Run(self, self.jobs, {"needs": {}}, literal=True)
        self.jobs += 1
        ended = run.steps([*given, ours], inputs={}, environ={})
        ended.outputs = run.step_outputs["it"]
        ended.summary = run.summary.read_text() if run.summary.exists() else ""
        return ended


@dataclass
class Run:
    """One job under way."""

    machine: Machine
    number: int
    given: Mapping[str, Any]
    literal: bool = False  #: what the first steps are given is no expression
    step_outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.temp.mkdir(parents=True)
        (self.folder / "event.json").write_text(json.dumps(self.machine.event))

    @property
    def folder(self) -> Path:
        return self.machine.folder / f"job-{self.number}"

    @property
    def temp(self) -> Path:
        return self.folder / "temp"

    @property
    def workspace(self) -> Path:
        return self.folder / "shop"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.md"

    def contexts(self, inputs: Mapping[str, str]) -> dict[str, Any]:
        return {
            "github": {"event": self.machine.event, "repository": "acme/shop", "token": self.machine.secrets["TOKEN"]},
            "secrets": self.machine.secrets,
            "vars": {},
            "runner": {"temp": str(self.temp)},
            "inputs": inputs,
            "steps": {k: {"outputs": v} for k, v in self.step_outputs.items()},
            **self.given,
        }

    @staticmethod
    def status(*, failed: bool) -> dict[str, bool]:
        return {"success": not failed, "failure": failed, "cancelled": False, "always": True}

    def fill(self, text: str, ended: Ended) -> str:
        return fill(text, self.contexts({}), self.status(failed=ended.failed))

    def steps(self, steps: Sequence[Mapping[str, Any]], *, inputs: Mapping[str, str], environ: Mapping[str, str],
              action: Path | None = None) -> Ended:  # fmt: skip
        """Run steps in order; those after a failed one only if they ask for it."""
        ended = Ended()
        for step in steps:
            contexts, status = self.contexts(inputs), self.status(failed=ended.failed)
            if not holds(str(step.get("if", "")), contexts, status):
                continue
            literal = self.literal and action is None
            given = {k: as_text(v) if literal else fill(as_text(v), contexts, status)
                     for k, v in step.get("with", {}).items()}  # fmt: skip
            env = {k: as_text(v) if literal else fill(as_text(v), contexts, status)
                   for k, v in step.get("env", {}).items()}  # fmt: skip
            ran = self._step(step, given, {**environ, **env}, action)
            ended.log += ran.log
            ended.failed |= ran.failed
            self.step_outputs[step.get("id", f"step-{len(self.step_outputs)}")] = ran.outputs
        return ended

    def _step(self, step: Mapping[str, Any], given: dict[str, str], env: dict[str, str], action: Path | None) -> Ended:
        if "run" in step:
            return self._shell(step["run"], env, action)
        ours = OURS.fullmatch(step["uses"])
        if ours is None:
            return self._theirs(step["uses"], given)
        if ours[1] == "setup" and not self.machine.real_setup:
            self.path.insert(0, str(_falplan_alone(self.folder / "bin")))
            return Ended()
        return self._ours(ACTIONS / ours[1], given, env)

    def _ours(self, folder: Path, given: dict[str, str], env: dict[str, str]) -> Ended:
        body = read_yaml(folder / "action.yml")
        unknown = set(given) - set(body["inputs"])
        assert not unknown, f"{folder.name} has no inputs {unknown}"
        default = {k: fill(v.get("default", ""), self.contexts({}), self.status(failed=False))
                   for k, v in body["inputs"].items()}  # fmt: skip
        outer, self.step_outputs = self.step_outputs, {}
        try:
            ended = self.steps(body["runs"]["steps"], inputs={**default, **given}, environ=env, action=folder)
            ended.outputs = {k: self.fill(v["value"], ended) for k, v in body.get("outputs", {}).items()}
        finally:
            self.step_outputs = outer
        return ended

    def _theirs(self, uses: str, given: dict[str, str]) -> Ended:
        name, _, pin = uses.partition("@")
        assert re.fullmatch("[0-9a-f]{40}", pin), uses
        self.machine.used.append(name)
        match name:
            case "actions/checkout":
                _git(self.folder, "clone", "--quiet", str(self.machine.origin), str(self.workspace))
            case "actions/setup-python":
                return Ended(outputs={"python-path": sys.executable})
            case "aws-actions/configure-aws-credentials":
                assert "role-to-assume" in given
                assert not [k for k in given if "key" in k], "long-lived keys"
            case "actions/upload-artifact":
                target = self.machine.artifact(given["name"])
                source = Path(given["path"])
                target.mkdir(parents=True)
                for file in source.iterdir() if source.is_dir() else [source]:
                    shutil.copyfile(file, target / file.name)  # modes are not kept
            case "actions/download-artifact":
                shutil.copytree(self.machine.artifact(given["name"]), given["path"], copy_function=shutil.copyfile)
            case _:
                raise AssertionError(f"nobody knows what {uses} does")
        return Ended()

    def _shell(self, script: str, env: Mapping[str, str], action: Path | None) -> Ended:
        step = self.prepare(script, env, action)
        done = subprocess.run(
            step.argv, cwd=self.workspace, env=step.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
        )  # fmt: skip
        self.path[:0] = step.paths.read_text().split()
        return Ended(done.returncode != 0, read_outputs(step.outputs), done.stdout.decode(errors="replace"))

    def prepare(self, script: str, env: Mapping[str, str], action: Path | None) -> Prepared:
        """A step's shell, ready to be started."""
        number = len(list(self.folder.glob("step-*.sh")))
        file = self.folder / f"step-{number}.sh"
        file.write_text(script)
        outputs, paths = self.folder / f"output-{number}", self.folder / f"path-{number}"
        outputs.touch()
        paths.touch()
        environ = {
            **base_environ(self.machine.folder, self.machine.environ, self.path),
            **env,
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_PATH": str(paths),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
            "GITHUB_API_URL": self.machine.api,
            "GITHUB_SERVER_URL": "https://github.example.com",
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_RUN_ID": "99",
            "GITHUB_SHA": "f" * 40,
            "GITHUB_ACTIONS": "true",
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_ACTION_PATH": str(action or ""),
        }
        return Prepared([*BASH, str(file)], environ, outputs, paths)


@dataclass(frozen=True)
class Prepared:
    """A step's shell: how it is started, and where it leaves its outputs and what goes on PATH."""

    argv: list[str]
    environ: dict[str, str]
    outputs: Path
    paths: Path


def base_environ(folder: Path, more: Mapping[str, str], path: Sequence[str] = ()) -> dict[str, str]:
    """What a runner gives a job: CI=true, and nothing of the developer's. All jobs share a home, as on a machine of one's own."""
    keep = {
        k: v for k, v in os.environ.items() if not k.startswith(("GIT", "FAL_", "FALPLAN_", "XDG_", "AWS_", "PIP_"))
    }
    return {
        **keep,
        "CI": "true",
        "XDG_STATE_HOME": str(folder / "home" / "state"),
        "XDG_CONFIG_HOME": str(folder / "home" / "config"),
        "XDG_RUNTIME_DIR": str(folder / "home" / "run"),
        "FALPLAN_MACHINE_DIR": str(folder / "home" / "ledger"),
        "NO_PROXY": "*",
        **more,
        "PATH": os.pathsep.join([*path, os.environ["PATH"]]),
    }


def read_outputs(file: Path) -> dict[str, str]:
    """The outputs of a step, which are all of one line each."""
    found = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.partition("=")
        assert equals, f"not name=value: {line!r}"
        found[name] = value
    return found


def _falplan_alone(folder: Path) -> Path:
    """A folder for PATH with this checkout's falplan in it, and nothing else."""
    folder.mkdir(exist_ok=True)
    program = folder / "falplan"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m falplan "$@"\n')
    program.chmod(0o755)
    return folder


def _git(folder: Path, *args: str) -> None:
    who = ["-c", "user.name=Ana", "-c", "user.email=ana@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True, timeout=60)


@dataclass
class GitLab:
    """Runs jobs of .gitlab-ci.yml whose rules hold. Artifacts are carried from job to job by hand, as GitLab does."""

    folder: Path
    environ: Mapping[str, str]
    real_setup: bool = False
    jobs: int = 0

    def chosen(self, file: Path, variables: Mapping[str, str]) -> dict[str, str]:
        """Names of the jobs whose rules hold -> `on_success` or `manual`."""
        found = {}
        for name, job in read_yaml(file).items():
            for rule in job.get("rules", []) if isinstance(job, dict) else []:
                if rule_holds(rule["if"], variables):
                    found[name] = rule.get("when", "on_success")
                    break
        return found

    def run(
        self, file: Path, name: str, checkout: Path, variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        body = read_yaml(file)
        builds = self.folder / f"builds-{self.jobs}"
        builds.mkdir()
        self.jobs += 1
        lines = body["default"]["before_script"] if self.real_setup else []
        path = [] if self.real_setup else [str(_falplan_alone(self.folder / "bin"))]
        environ = {
            **base_environ(self.folder, self.environ, path), **body["variables"], **variables,
            "CI_BUILDS_DIR": str(builds), "CI_PROJECT_ID": "9", "CI_COMMIT_SHA": "f" * 40,
            "CI_JOB_URL": "https://gitlab.example.com/acme/shop/-/jobs/3",
        }  # fmt: skip
        script = "\n".join([*lines, *body[name]["script"]])
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=checkout, env=environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
        )  # fmt: skip


def rule_holds(condition: str, variables: Mapping[str, str]) -> bool:
    """Rules of the form `$A == "x" && $B == $C`."""

    def value(term: str) -> str:
        return variables.get(term[1:], "") if term.startswith("$") else term.strip('"')

    parts = [re.fullmatch(r'(\$\w+|"[^"]*") == (\$\w+|"[^"]*")', part.strip()) for part in condition.split("&&")]
    assert all(parts), condition
    return all(value(part[1]) == value(part[2]) for part in parts if part)
