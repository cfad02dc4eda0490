"""The drift cases: looks at a world in which nothing that counts changes, and looks at one that somebody did change.

Each case deploys a project, and looks hundreds of times with the functions that `falplan drift` calls, every 25th time with the
command itself. Between quiet looks everything happens that is no drift: requests, runners that come, go and are stopped, keys, pruning.
A seeded drift is one change on the control plane behind falplan's back, found by address and value, taken back, and gone again.

Seen red with overrides of lists left out, with runners that are known counted as orphans, and with an exit code that tells of what is
unknown before it tells of drift.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from falplan.cli.context import Options
from falplan.cli.drift import exit_code_of, report_of
from falplan.cli.project import load
from falplan.core.operations import OperationKind
from falplan.core.values import JsonObject
from falplan.engine.client import AdminClient
from falplan.engine.drifting import Looked, look
from falplan.engine.project import Project, open_project

from .cases import Case
from .sandbox import Broken, Sandbox, kill

QUIET, SEEDED = 100, 20
"""Looks a case of the full suite has; ten cases make 1,000 and 200."""
EVERY = 25
"""How often a look is the command's own."""
TODAY = "2026-01-01"


def drift_cases(rng: random.Random, full: bool) -> Iterator[Case]:
    """Ten cases of 100 quiet looks and 20 seeded drifts, or one of 25 and 8."""
    quiet, seeded = (QUIET, SEEDED) if full else (25, 8)
    for number in range(10 if full else 1):
        seed = rng.getrandbits(32)
        run = partial(_seeded, seed, quiet, seeded)
        yield Case(f"drift {number} (seed {seed}: {quiet} quiet looks, {seeded} drifts)", run)


def _seeded(seed: int, quiet: int, seeded: int) -> None:
    check(random.Random(seed), quiet, seeded)


def check(rng: random.Random, quiet: int, seeded: int) -> None:
    """No look finds what is not there, and each finds what is.

    Raises:
        Broken: one did not; says which, and what it saw.
    """
    box = Sandbox(secrets=True)
    try:
        box.set_secret("KEPT", b"kept-1")
        box.must("apply", "--auto-approve")
        watch = Watch(box)
        for number in range(quiet):
            rng.choice(NOISE)(box)
            watch.expect_none(number)
        for number in range(seeded):
            name, seed = rng.choice(list(SEEDS.items()))
            undo, address = seed(watch, rng)
            watch.expect(address, name, number)
            undo()
            watch.expect_none(number)
    finally:
        box.clean()


@dataclass
class Watch:
    """Looks at a sandbox's world."""

    box: Sandbox

    def __post_init__(self) -> None:
        environ = self.box.environ()
        self.project: Project = open_project(load(Options(self.box.project, environ=environ)), environ)

    @property
    def client(self) -> AdminClient:
        return self.project.running_client()

    def look(self) -> tuple[int, Looked]:
        looked = look(self.project, environment="", today=TODAY)
        return int(exit_code_of(report_of(looked, now=0.0), allow_unknown=False)), looked

    def expect_none(self, number: int) -> None:
        code, looked = self.look()
        if code != 0 or looked.findings.drift:
            raise Broken(f"look {number}: exit {code} though nothing drifted: {looked.findings} {looked.orphans}")
        if number % EVERY == 0:
            ran = self.box.run("drift", "--json")
            if ran.code != 0 or not json.loads(ran.out)["in_sync"]:
                raise Broken(f"falplan drift exited {ran.code}: {ran.out}{ran.err}")

    def expect(self, address: str, name: str, number: int) -> None:
        code, looked = self.look()
        if code != 2 or [d.address for d in looked.findings.alarming] != [address]:
            raise Broken(f"drift {number} ({name}, of {address}): exit {code}, found {looked.findings}")
        if number % 4 == 0:
            ran = self.box.run("drift", "--json")
            if ran.code != 2 or [d["address"] for d in json.loads(ran.out)["drift"]] != [address]:
                raise Broken(f"falplan drift exited {ran.code}: {ran.out}{ran.err}")

    def override(self, name: str, settings: JsonObject) -> None:
        body: JsonObject = {"address": f"app.main.{name}", "endpoint": f"acme/{name}", "settings": settings}
        self.client.perform(str(uuid.uuid4()), OperationKind.OVERRIDE, body)

    def reset(self, name: str) -> None:
        body: JsonObject = {"address": f"app.main.{name}", "endpoint": f"acme/{name}"}
        self.client.perform(str(uuid.uuid4()), OperationKind.RESET, body)


Seed = Callable[[Watch, random.Random], tuple[Callable[[], None], str]]
"""Makes a drift; returns what takes it back, and the address at which it has to be found."""


def _number(watch: Watch, rng: random.Random) -> tuple[Callable[[], None], str]:
    app = rng.choice(["one", "two"])
    setting, value = rng.choice([("max_concurrency", rng.randint(3, 50)), ("keep_alive", rng.randint(301, 900)),
                                 ("concurrency_buffer", rng.randint(1, 2)), ("request_timeout", rng.randint(5, 90))])  # fmt: skip
    watch.override(app, {setting: value})
    return lambda: watch.reset(app), f"app.main.{app}"


def _auth(watch: Watch, rng: random.Random) -> tuple[Callable[[], None], str]:
    app = rng.choice(["one", "two"])
    watch.override(app, {"auth": "public"})
    return lambda: watch.reset(app), f"app.main.{app}"


def _list(watch: Watch, rng: random.Random) -> tuple[Callable[[], None], str]:
    app = rng.choice(["one", "two"])
    watch.override(app, {"skip_retry_conditions": ["timeout"]})
    return lambda: watch.reset(app), f"app.main.{app}"


def _stopped(watch: Watch, rng: random.Random) -> tuple[Callable[[], None], str]:
    """The control plane is gone, its data is not."""
    watch.box.kill_control_plane()

    def undo() -> None:
        watch.box.must("apply", "--auto-approve")

    return undo, "gateway"


SEEDS: dict[str, Seed] = {
    "a number": _number,
    "who may call": _auth,
    "a list": _list,
    "a stopped control plane": _stopped,
}


def _call(box: Sandbox) -> None:
    box.run("call", "one", '{"n": 1}')


def _stop(box: Sandbox) -> None:
    for processes in box.runner_marks().values():
        kill(processes)


def _keys(box: Sandbox) -> None:
    made = box.run("keys", "create", "--json")
    box.run("keys", "revoke", json.loads(made.out)["key_id"])


def _prune(box: Sandbox) -> None:
    box.run("prune")


def _nothing(box: Sandbox) -> None:
    """Most looks follow right upon one another."""


NOISE: Sequence[Callable[[Sandbox], None]] = (*[_nothing] * 16, _call, _stop, _keys, _prune)
"""What happens before a quiet look. Commands take a second of a core each, looks some thousandths."""
