"""A project whose resources are lines of a file, the real command line run against it, and the checks that must hold after any fault."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from falplan.cli.context import Options
from falplan.cli.project import load
from falplan.core.state import State
from falplan.engine.last_resort import left_over, places, seal_of
from falplan.engine.project import Project, open_project
from falplan.stores.state import errored
from falplan.stores.state.errored import Errored
from tests.faults.applying import Line, living, read_world
from tests.faults.sandbox import PATIENCE, Broken, Ran, wait_until

ROOT = Path(__file__).parents[2]
KEEP = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG", "FALPLANS_TEST_RUN")


@dataclass
class Cheap:
    """A project with `apps` apps beside its gateway. Everything is below `folder`, but for a state that is kept elsewhere."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fpf-")))
    apps: int = 4
    state: str = "{backend: local}"
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project.mkdir()
        (self.project / "a.py").write_text("")
        self.wish("nobody", "falplan.yaml")

    def wish(self, by: str, name: str = "") -> tuple[str, str]:
        """Another spec of the project, which wants its apps to have this tag: options that come before a command."""
        name = name or f"wish-{by}.yaml"
        listed = "".join(f"  a{n}: {{command: serve, files: [a.py], tags: {{by: {by}}}}}\n" for n in range(self.apps))
        (self.project / name).write_text(f"version: 1\nproject: cheap\nstate: {self.state}\napps:\n{listed}")
        return "-f", name

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    @property
    def state_folder(self) -> Path:
        return self.project / ".falplan"

    def environ(self, **more: str) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if k in KEEP or k.startswith("AWS_")},
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "FALPLAN_MACHINE_DIR": str(self.folder / "ledger"),
            "FALPLAN_TEST_WORLD": str(self.world),
            "PYTHONHASHSEED": "0",
            "NO_COLOR": "1",
            **self.more,
            **more,
        }

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "tests.faults.applying", "-C", str(self.project), *args]

    def start(self, *args: str, before: Sequence[str] = (), **more: str) -> subprocess.Popen[str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        (self.folder / "home").mkdir(exist_ok=True)
        return subprocess.Popen(
            [*before, *self.argv(*args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environ(**more),
        )

    def run(self, *args: str, before: Sequence[str] = (), **more: str) -> Ran:
        return ended(self.start(*args, before=before, **more))

    def must(self, *args: str, **more: str) -> Ran:
        ran = self.run(*args, **more)
        if ran.code != 0:
            raise Broken(f"falplan {' '.join(args)} exited {ran.code}\n{ran.out}\n{ran.err}")
        return ran

    def lines(self) -> list[Line]:
        return read_world(self.world)

    def living(self) -> dict[str, Line]:
        return living(self.lines())

    def opened(self) -> Project:
        environ = self.environ()
        return open_project(load(Options(self.project, environ=environ), quiet=True), environ)

    def read(self) -> State:
        """The state as anybody reads it: it has to load."""
        return self.opened().read_state()

    def left_over(self) -> Errored | None:
        project = self.opened()
        return left_over(project, project.read_state())

    def known(self) -> set[str]:
        """Addresses that state, its journal or what was brought to safety know of."""
        project = self.opened()
        state = project.read_state()
        kept = errored.find(places(project), state, seal_of(project))
        return set(state.resources).union(*(e.state.resources for e in kept))

    def check_nothing_lost(self) -> None:
        """Whatever exists, or was begun, is known."""
        lost = {line["address"] for line in self.lines()} - self.known() - self._deleted()
        if lost:
            raise Broken(f"state knows nothing of {sorted(lost)}")

    def _deleted(self) -> set[str]:
        lines = self.lines()
        return (
            {line["address"] for line in lines}
            - living(lines).keys()
            - {x["address"] for x in lines if x["is"] == "begun"}
        )

    def check_converges(self, *wish: str) -> None:
        """What was brought to safety is pushed; one apply makes everything, nothing twice; another has nothing to do."""
        left = self.left_over()
        if left is not None:
            refused = self.run(*wish, "apply", "--auto-approve")
            if refused.code != 6:
                raise Broken(f"apply went on without what was kept in {left.path}: {refused.code} {refused.err}")
            self.must("state", "push", "--auto-approve", str(left.path))
        self.must(*wish, "apply", "--auto-approve")
        ran = self.run(*wish, "plan", "--detailed-exitcode")
        if ran.code != 0:
            raise Broken(f"the plan after apply is not empty (exit {ran.code})\n{ran.out}\n{ran.err}")
        self.check_made_once()
        state = self.read()
        if set(state.resources) != set(self.living()):
            raise Broken(f"state has {sorted(state.resources)}, the world {sorted(self.living())}")
        if any(r.intent for r in state.resources.values()):
            raise Broken("an intent is open after an apply that succeeded")

    def check_made_once(self) -> None:
        """No operation was done twice, and nothing created that existed."""
        there: set[str] = set()
        done: set[str] = set()
        for line in self.lines():
            if line["is"] != "done":
                continue
            if line["operation"] in done:
                raise Broken(f"{line['address']}: operation {line['operation']} was done twice")
            done.add(line["operation"])
            if line["action"] == "create" and line["address"] in there:
                raise Broken(f"{line['address']} was created although it existed")
            if line["action"] == "delete":
                there.discard(line["address"])
            else:
                there.add(line["address"])

    def check_one_at_a_time(self) -> None:
        """Of two processes one ends all that it does before the other begins anything."""
        order: list[int] = []
        for line in self.lines():
            if not order or order[-1] != line["pid"]:
                order.append(line["pid"])
        if len(order) != len(set(order)):
            raise Broken(f"processes came in between one another: {order}")

    def clean(self) -> None:
        """What a killed process still writes is waited for: 20 s at most, then the folder that is left is told by the look for leftovers."""
        wait_until(lambda: _gone(self.folder), 20)


def _gone(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@contextlib.contextmanager
def cheap(**given: object) -> Iterator[Cheap]:
    """A project that is gone afterwards."""
    found = Cheap(**given)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        found.clean()


def ended(process: subprocess.Popen[str], patience: float = PATIENCE) -> Ran:
    """Wait for a command's end."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise Broken(f"{process.args!r} did not end within {patience} s\n{out}\n{err}") from None
    return Ran(process.returncode, out or "", err or "")


def no_bug(ran: Ran) -> None:
    """Neither a traceback nor the exit code of a bug."""
    if ran.code == 70 or "Traceback" in ran.err or "a bug in falplan" in ran.err:
        raise Broken(f"a bug: exit {ran.code}\n{ran.out}\n{ran.err}")


def dumped(value: object) -> str:
    return json.dumps(value, indent=1, default=str)
