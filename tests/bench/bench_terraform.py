"""falplan beside the installed `terraform`: plans, applies and destroys of as many resources, in time, memory and bytes written.

Both are run as a user runs them, each command in a process of its own, one after the other on the same machine. Terraform's resources are
`terraform_data`, a block each, which cost it nothing but its own work. falplan plans apps with their builds, whose control plane it asks, and
applies and destroys hosts of the SDK's fake provider, which are files.

What is measured: wall time; CPU time of the command and of every process it waited for; the most memory that one of its processes had; and
the bytes that all of them gave to write(2), files, pipes and standard output alike. `cold` has an empty cache of resolved specs and fills
it, `warm` finds its entry there. The files are in the page cache for both.

`BENCH_SIZES=100,1000,10000` chooses the numbers of resources. terraform writes its whole state after each resource, so an apply of 10,000 takes
it more than ten minutes and ten gigabytes: applies end at 1,000 unless `BENCH_APPLY=100,1000,10000` asks for more. No command of terraform gets more
than `BENCH_LIMIT` seconds, 900 by default. One that is stopped then counts with what it had taken and written by then, as `at least` so much, and
with the number of resources that it had got through.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from falplan.core.resources import desired_resources
from falplan.sdk.testing.world import install
from falplan.stores.state.local import LocalState
from tests.bench.bench_plan import a_project, load, serving, state_of

pytestmark = [
    pytest.mark.bench,
    pytest.mark.needs("terraform"),
    pytest.mark.timeout(3 * 3600),
    pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io, which tells the bytes written"),
]


def sizes(variable: str, default: str) -> list[int]:
    return [int(n) for n in os.environ.get(variable, default).split(",")]


PLANS = sizes("BENCH_SIZES", "100,1000,10000")
APPLIES = sizes("BENCH_APPLY", "100,1000")
LIMIT = float(os.environ.get("BENCH_LIMIT", "900"))
"""Seconds that a command of terraform may take."""
HOSTS = """version: 1
project: hosts
gateway: {{ephemeral: true}}
regions:
  lab:
    provider: fake
    world: {world}
    hosts:
"""
ROOM = """machine_types: {tiny: {vcpu: 0.1, ram: 64MiB}, small: {vcpu: 0.2, ram: 64MiB}}
regions: {here: {provider: local, capacity: {vcpu: 4000, ram: 4000GiB}}}
"""
"""A new app starts a runner, and a plan without room for it is refused."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What commands took: seconds of wall and CPU time, MiB of the largest process, bytes given to write(2). `whole`: to their end."""

    wall: float
    cpu: float
    memory: float
    written: int
    whole: bool = True

    def __str__(self) -> str:
        return (
            f"{self.wall:8.2f} s  {self.cpu:8.2f} s CPU  {self.memory:6.0f} MiB  {self.written / 1e6:9.2f} MB written"
        )

    def beside(self, other: Cost) -> str:
        """The ratios to another one: above 1 in time means faster, below 1 in memory and bytes means less."""
        bound = "" if other.whole else "at least "
        return (
            f"{bound}{other.wall / self.wall:5.1f} times as fast, {other.cpu / self.cpu:5.1f} in CPU time; "
            f"{self.memory / other.memory:.2f} of the memory, {self.written / max(1, other.written):.3f} of the bytes"
        )


@dataclass(frozen=True, slots=True)
class Tool:
    """A command line in a folder, with its environment. `limit`: seconds that a command may take; 0 for ever."""

    argv: Sequence[str]
    folder: Path
    environ: dict[str, str]
    limit: float = 0

    def run(self, *args: str, expected: int = 0) -> Cost:
        """Run it to its end, or kill it after its time; what it waited for counts, too."""
        errors, told = self.folder / "stderr.log", self.folder / "cost.json"
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(errors), str(told), str(self.limit)]
        subprocess.run([*launcher, *self.argv, *args], cwd=self.folder, env=self.environ, check=True)
        body = json.loads(told.read_text())
        whole = body["code"] != -signal.SIGKILL
        assert not whole or body["code"] == expected, errors.read_text()[-2000:]
        return Cost(body["wall"], body["cpu"], body["memory"] / 1024, body["written"], whole)


LAUNCHER = """
import json, os, signal, sys, time

def written():
    return next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("wchar:"))

errors, told, limit, *argv = sys.argv[1:]
streams = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
           (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
before, began = written(), time.perf_counter()
process = os.posix_spawnp(argv[0], argv, os.environ, file_actions=streams)
signal.signal(signal.SIGALRM, lambda *_: os.kill(process, signal.SIGKILL))
signal.setitimer(signal.ITIMER_REAL, float(limit))
_, status, usage = os.wait4(process, 0)
signal.setitimer(signal.ITIMER_REAL, 0)
cost = {"wall": time.perf_counter() - began, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss,
        "written": written() - before, "code": os.waitstatus_to_exitcode(status)}
open(told, "w").write(json.dumps(cost))
"""
"""A small process that starts the command: a process counts as its own the memory that whoever started it had at that moment.

Bytes given to write(2) are its own and those of all that it waited for, whose count proc(5) adds when they are waited for.
"""


def middle(work: Callable[[], Cost], rounds: int) -> Cost:
    """The median in each respect."""
    found = [work() for _ in range(rounds)]
    return Cost(
        statistics.median(c.wall for c in found),
        statistics.median(c.cpu for c in found),
        statistics.median(c.memory for c in found),
        int(statistics.median(c.written for c in found)),
    )


@pytest.mark.parametrize("count", PLANS)
def test_plans_beside_terraform(tmp_path: Path, count: int) -> None:
    """Half of falplan's resources are apps, half their builds; and one gateway."""
    rounds = 3 if count <= 1000 else 1
    terraform = a_terraform(tmp_path / "terraform", count)
    first = {"terraform": middle(lambda: terraform.run("plan", expected=0), rounds)}
    applied(terraform.folder, count)
    no_op = {"terraform": middle(lambda: terraform.run("plan", "-detailed-exitcode"), rounds)}
    project = a_project(tmp_path / "project", count // 2)
    spec = project / "falplan.yaml"
    spec.write_text(spec.read_text().replace("GPU-A100, GPU-H100", "tiny, small") + ROOM)
    state = state_of(desired_resources(load(project)))
    new = falplan(project, {**os.environ, "XDG_STATE_HOME": str(tmp_path / "none")})
    first |= cold_and_warm(new, rounds, "plan")
    with serving(tmp_path / "home", state) as environ:
        store = LocalState(project / ".falplan")
        with store.locked("bench"):
            store.save(state)
        with its_cpu(tmp_path / "home", rounds) as seconds:
            no_op |= cold_and_warm(falplan(project, environ), rounds, "plan", "--detailed-exitcode")
    table(f"First plan of {count:,} resources", first)
    table(f"No-op plan of {count:,} resources (the control plane's own CPU: {seconds[0]:.2f} s a plan)", no_op)


@pytest.mark.parametrize("count", APPLIES)
def test_applies_beside_terraform(tmp_path: Path, count: int) -> None:
    """Each command once: an apply can't be repeated."""
    terraform, ours = a_terraform(tmp_path / "terraform", count), hosts(tmp_path / "hosts", count)
    phases = (
        ("Apply", ("apply", "-auto-approve"), ("apply", "--auto-approve")),
        ("No-op plan", ("plan", "-detailed-exitcode"), ("plan", "--detailed-exitcode")),
        ("Destroy", ("destroy", "-auto-approve"), ("destroy", "--auto-approve")),
    )
    for phase, theirs, own in phases:
        found = {"terraform": terraform.run(*theirs), "falplan": ours.run(*own)}
        if not found["terraform"].whole:
            print(f"\n  terraform was stopped after {LIMIT:g} s, {progress_of(terraform.folder, count)}")
            if phase == "Apply":
                applied(terraform.folder, count)
        table(f"{phase} of {count:,} resources that providers own", found)
        each = ", ".join(f"{name} {cost.written / count / 1000:.1f} kB" for name, cost in found.items())
        print(f"  bytes written a resource: {each}")


def table(title: str, costs: dict[str, Cost]) -> None:
    print(f"\n{title}:")
    for name, cost in costs.items():
        print(f"  {name:14} {cost}")
    for name, cost in costs.items():
        if name != "terraform":
            print(f"  {name} beside terraform: {cost.beside(costs['terraform'])}")


def falplan(project: Path, environ: dict[str, str]) -> Tool:
    used = {k: v for k, v in environ.items() if k != "FALPLAN_NO_CACHE"}
    used["XDG_CACHE_HOME"] = str(project.parent / "cache")
    return Tool([sys.executable, "-m", "falplan", "-C", str(project)], project.parent, used)


def cold_and_warm(tool: Tool, rounds: int, *args: str) -> dict[str, Cost]:
    folder = Path(tool.environ["XDG_CACHE_HOME"], "falplan")

    def cold() -> Cost:
        for entry in folder.glob("*"):
            entry.unlink()
        return tool.run(*args)

    found = {"falplan, cold": middle(cold, rounds), "falplan, warm": middle(lambda: tool.run(*args), rounds)}
    assert len(list(folder.glob("spec-*.json"))) == 1
    return found


@contextmanager
def its_cpu(home: Path, rounds: int) -> Iterator[list[float]]:
    """Seconds of CPU that the control plane took for one of the commands meanwhile."""
    (served,) = [p for p in psutil.process_iter() if p.cmdline()[-2:-1] == ["--home"] and str(home) in p.cmdline()[-1]]
    found: list[float] = []
    before = served.cpu_times()
    yield found
    after = served.cpu_times()
    found.append((after.user + after.system - before.user - before.system) / (2 * rounds))


def hosts(folder: Path, count: int) -> Tool:
    """A project of so many hosts, with the gateway among them."""
    project = folder / "project"
    project.mkdir(parents=True)
    lines = "".join(f"      h{n}: {{tags: {{value: v{n}}}}}\n" for n in range(count - 1))
    (project / "falplan.yaml").write_text(HOSTS.format(world=folder / "world") + lines)
    environ = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), **install(folder / "installed")}
    return falplan(project, environ)


def a_terraform(folder: Path, count: int) -> Tool:
    """A project of so many `terraform_data`, initialised without a network."""
    folder.mkdir()
    blocks = (f'resource "terraform_data" "r{n}" {{\n  input = "v{n}"\n}}\n' for n in range(count))
    (folder / "main.tf").write_text("".join(blocks))
    environ = {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1"}
    tool = Tool(["terraform"], folder, environ, LIMIT)
    tool.run("init")
    return tool


def progress_of(folder: Path, count: int) -> str:
    """How far it had got by the state that it left."""
    try:
        left = len(json.loads((folder / "terraform.tfstate").read_text())["resources"])
    except ValueError:
        return "while it wrote its state"
    return f"with {left:,} of {count:,} resources in its state"


def applied(folder: Path, count: int) -> None:
    """The state that an apply of all of them leaves: one is applied, the others are written like it."""
    one = a_terraform(folder / "one", 1)
    one.run("apply", "-auto-approve")
    state: dict[str, Any] = json.loads((one.folder / "terraform.tfstate").read_text())
    pattern = json.dumps(state["resources"][0])
    state["resources"] = [
        json.loads(pattern.replace('"r0"', f'"r{n}"').replace('"v0"', f'"v{n}"')) for n in range(count)
    ]
    (folder / "terraform.tfstate").write_text(json.dumps(state, indent=2))
