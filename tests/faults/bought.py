"""Machines that are bought while the account fails and processes are killed: none is bought twice, forgotten, or left in the end.

The account is fake, its machines are hosts of a lab, and the command line and the control plane are real processes that are really killed.
What is drawn comes from the seed that a case's name shows.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from falplan.sdk.testing.fakeec2 import Delays, Fault, Strike
from tests.lab.cloud import Cloud, CloudProject, a_cloud

from .sandbox import Broken, Ran, wait_until

CALLS = (
    "RunInstances",
    "TerminateInstances",
    "DescribeInstances",
    "DescribeInstanceTypes",
    "GetConsoleOutput",
    "CreateSecurityGroup",
    "AuthorizeSecurityGroup*",
    "CreateLaunchTemplate*",
    "DeleteSecurityGroup",
    "DeleteLaunchTemplate",
    "Describe*",
    "*",
)
STRIKES = (Strike.DROP, Strike.DONE_DROP, Strike.ERROR, Strike.DONE_ERROR)
LONGEST = 14.0
"""Seconds into a command within which something is killed; the longest of them take a little more."""
CONVERGE = 4
"""Applies after which all is as the spec says, once nothing fails any more."""


POINTS = (
    "fleet.want.after_intent",
    "fleet.attempt.before_commit",
    "fleet.attempt.after_commit",
    "aws.launch.after_intent",
    "aws.launch.after_call",
    "aws.launch.after_verdict",
    "fleet.buy.after_answer",
    "fleet.save.before_commit",
    "fleet.save.after_commit",
    "operation.end_machine.before_begin",
    "operation.end_machine.after_begin",
    "fleet.give_back.after_record",
    "fleet.end.before_call",
    "operation.end_machine.before_end",
    "operation.end_machine.after_end",
)
"""Where a control plane is killed that buys a machine, and gives it back when it is told to."""


def cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """200 histories of three kills each, or two; and kills at each point, or at three of them."""
    for point in POINTS if full else rng.sample(POINTS, 3):
        for nth in (1, 2) if full else (1,):
            yield f"killed at {point}, pass {nth}", partial(killed_at, point, nth)
    for number in range(200 if full else 2):
        seed = rng.randrange(2**32)
        yield f"machines are bought and lost {number} (seed {seed})", partial(history, seed)


def history(seed: int) -> None:
    """Changes, kills and failing calls; then one that is left alone, and the end."""
    rng = random.Random(seed)
    with a_cloud() as cloud:
        # What was made is not seen at once, and what ends holds its group for a while: twelve seconds at most, as time goes here.
        late, held = rng.choice((0.0, 30.0, 120.0)), rng.choice((0.0, 60.0))
        cloud.account.delays = Delays(visible={"i": late}, interfaces=held)
        project = CloudProject(cloud, region={"idle_timeout": 60, "spot": rng.random() < 0.5})
        try:
            for _ in range(3):
                _disturbed(project, rng)
            cloud.account.faults.clear()
            cloud.account.capacity.clear()
            _converge(project)
            _check(project)
            if rng.random() < 0.5:
                _killed(project, rng, project.box.start("destroy", "--auto-approve", **project.environ))
            _must_in_the_end(project, "destroy")
            _check_nothing_left(cloud)
        finally:
            project.box.clean()


def killed_at(point: str, nth: int) -> None:
    """A control plane that is killed where it buys a machine or gives it back; the spec is edited before it is made to go on."""
    with a_cloud() as cloud:
        project = CloudProject(cloud, least=1)
        log = project.box.folder / "points.log"
        log.touch()
        strike = {"FALPLAN_FAILPOINTS": f"{point}=kill@{nth}", "FALPLAN_FAILPOINTS_LOG": str(log)}
        try:
            project.box.run("apply", "--auto-approve", **project.environ, **strike)
            for machine in project.machines():
                project.box.run("machines", "end", machine, **project.environ)
            if log.read_text().split().count(point) < nth and nth == 1:
                raise Broken(f"{point} was not passed: the case proves nothing")
            project.box.kill_control_plane()  # it was started with the point set
            project.version += 1
            project.least = 2
            project.write()
            _converge(project)
            _check(project)
            _must_in_the_end(project, "destroy")
            _check_nothing_left(cloud)
        finally:
            project.box.clean()


def _disturbed(project: CloudProject, rng: random.Random) -> None:
    """Another wish, calls that fail, and a kill somewhere on the way."""
    account = project.cloud.account
    project.least, project.version = rng.randrange(3), rng.randrange(1, 4)
    project.write()
    for _ in range(rng.randrange(4)):
        action = "RunInstances" if rng.random() < 0.4 else rng.choice(CALLS)
        nth = rng.randrange(1, 3) if action == "RunInstances" else rng.randrange(1, 6)
        account.faults.append(Fault(action, rng.choice(STRIKES), nth, rng.randrange(1, 3)))
    if rng.random() < 0.3:
        zone = rng.choice(account.catalog.zones).zone_id
        account.capacity["p5.4xlarge", zone, "on-demand"] = 0
    _killed(project, rng, project.box.start("apply", "--auto-approve", **project.environ))


def _killed(project: CloudProject, rng: random.Random, process: subprocess.Popen[str]) -> None:
    """The command, the control plane, or both, at any instant; or nobody."""
    give_up = time.monotonic() + rng.random() * LONGEST
    while time.monotonic() < give_up and process.poll() is None:
        time.sleep(0.02)
    whom = rng.choice(("command", "plane", "both", "nobody"))
    if whom in ("command", "both"):
        process.kill()
    if whom in ("plane", "both"):
        project.box.kill_control_plane()
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Broken(f"a command hangs after the kill of {whom}\n{project.box.serve_log()}") from None


def _converge(project: CloudProject) -> None:
    """What failed is asked for again, as falplan says."""
    _must_in_the_end(project, "apply")
    ran = project.box.run("plan", "--detailed-exitcode", **project.environ)
    if ran.code:
        raise Broken(f"the plan after apply is not empty (exit {ran.code})\n{ran.out}\n{ran.err}")


def _must_in_the_end(project: CloudProject, command: str) -> None:
    told: list[Ran] = []
    for _ in range(CONVERGE):
        told.append(project.box.run(command, "--auto-approve", **project.environ))
        if told[-1].code == 0:
            return
    lines = "\n".join(f"exit {ran.code}\n{ran.out}\n{ran.err}" for ran in told)
    raise Broken(f"{command} comes to no end\n{lines}\n{project.box.serve_log()}")


def _check(project: CloudProject) -> None:
    """Every machine that costs money is known, and every one that is known is there; nothing was bought twice."""
    cloud = project.cloud

    def unknown() -> tuple[set[str], set[str]]:
        return {i.id for i in cloud.alive()}, {row["identity"] for row in _fleet(project)}

    wait_until(lambda: unknown()[0] == unknown()[1], 90, lambda: f"there and known: {unknown()}")
    twice = cloud.account.overlaps("falplan:operation")
    if twice:
        raise Broken(f"two machines for one intent: {twice}")
    if project.call(n=1)["version"] != project.version:
        raise Broken("another version answers")


def _fleet(project: CloudProject) -> list[Any]:
    from falplan.engine.local_gateway import reach
    from falplan.stores.home import ControlHome

    [folder] = (project.box.folder / "state" / "falplan").iterdir()
    client = reach(ControlHome(folder))
    assert client is not None
    rows: list[Any] = client.get("/world")["fleet"]
    return rows


def _check_nothing_left(cloud: Cloud) -> None:
    left = [t.id for t in cloud.account.things.values() if t.id.startswith(("sg-", "lt-"))]
    left += [i.id for i in cloud.alive()]
    if left:
        raise Broken(f"left in the account: {left}")
    if cloud.problems:
        raise Broken(f"the lab itself failed: {json.dumps(cloud.problems)}")
