"""What a plan of many apps costs beside merely composing the same YAML with libyaml, and how it grows with their number."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from falplan import registry
from falplan.core.definition import definition_to_json, make_definition, split_settings
from falplan.core.plan import Presence, Seen
from falplan.core.planner import make_plan
from falplan.core.resources import Resource, ResourceType, desired_resources
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import Recorded, State
from falplan.core.values import JsonObject
from falplan.stores.home import home_of
from falplan.stores.runtime.control import AppRow, ControlStore, RevisionRow
from falplan.stores.runtime.database import Database
from falplan.stores.spec import load_spec
from falplan.stores.state.local import LocalState

pytestmark = pytest.mark.bench
ROUNDS = 3
CONTROL_PLANE = "cp-0123456789ab"
LINEAGE = "00000000-0000-4000-8000-000000000000"
HEAD = """version: 1
project: many
owner: acme
variables: {most: {type: int, default: 4}}
apps:
"""
APP = """  app-{n}:
    app: models/app_{file}.py::App
    machine_type: [GPU-A100, GPU-H100]
    requirements: [torch==2.4.0, "diffusers>=0.30"]
    min_concurrency: 0
    max_concurrency: "{{{{ var.most }}}}"
    keep_alive: 5m
    environment_variables: {{MODEL: model-{n}, STAGE: "{{{{ environment }}}}"}}
"""
LOCK = "0" * 64
FILES = 20
"""Apps share so many files, as they do in a repository."""
CLASS = """import fal


class App(fal.App):
    request_timeout = 600

    @fal.endpoint("/")
    def run(self) -> dict[str, int]:
        return {"n": %d}
"""


def test_plan_of_a_thousand_apps_beside_composing_their_yaml(tmp_path: Path) -> None:
    project = a_project(tmp_path, 1000)
    text = (project / "falplan.yaml").read_text()
    spec = load(project)
    state = state_of(desired_resources(spec))
    with serving(tmp_path / "home", state) as environ:
        whole = median(partial(command, project, environ, state))
    seconds = {
        "compose (libyaml)": median(partial(yaml.compose, text, Loader=yaml.CSafeLoader)),
        "load_spec": median(partial(load, project)),
        "desired_resources and make_plan": median(partial(no_op, spec, state)),
        "falplan plan, whole command": whole,
    }
    print(f"\n1000 apps, {len(text) / 1024:.0f} KiB of YAML:")
    for name, taken in seconds.items():
        print(f"  {name}: {taken:.3f} s, {taken / seconds['compose (libyaml)']:.1f} times composing it")

    assert no_op(spec, state)


def test_planning_grows_with_the_number_of_apps(tmp_path: Path) -> None:
    print("\nper app, in microseconds:")
    for count in (250, 500, 1000, 2000):
        project = a_project(tmp_path / str(count), count)
        text = (project / "falplan.yaml").read_text()
        spec = load(project)
        state = state_of(desired_resources(spec))
        composing = median(partial(yaml.compose, text, Loader=yaml.CSafeLoader))
        loading = median(partial(load, project))
        planning = median(partial(no_op, spec, state))
        costs = [
            f"{name} {taken / count * 1e6:.0f}"
            for name, taken in (("compose", composing), ("load", loading), ("plan", planning))
        ]
        print(
            f"  {count} apps: {', '.join(costs)}; load and plan are {(loading + planning) / composing:.1f} times composing"
        )

        assert no_op(spec, state)


def a_project(folder: Path, count: int) -> Path:
    """A spec of so many apps, with the files that they share."""
    (folder / "models").mkdir(parents=True)
    for n in range(FILES):
        (folder / "models" / f"app_{n}.py").write_text(CLASS % n)
    (folder / "falplan.yaml").write_text(HEAD + "".join(APP.format(n=n, file=n % FILES) for n in range(count)))
    return folder


def load(folder: Path) -> ResolvedSpec:
    return load_spec(folder, None, variables={}, variable_files=[], environ={}, providers=registry.available())


def state_of(wanted: dict[str, Resource]) -> State:
    """State as it is after everything was applied."""
    resources = {
        a: Recorded(a, r.type.value, r.inputs, outputs(r), r.dependencies, generation=1) for a, r in wanted.items()
    }
    return State("many", LINEAGE, 1, resources)


def outputs(resource: Resource) -> dict[str, Any]:
    """Values as an apply leaves them."""
    if resource.type is ResourceType.APP:
        return {"revision": "r-0123456789ab", "url": f"https://127.0.0.1:1/run/{resource.inputs['endpoint']}"}
    if resource.type is ResourceType.BUILD:
        return {"lock": LOCK}
    return {"url": "https://127.0.0.1:1", "id": CONTROL_PLANE}


def no_op(spec: ResolvedSpec, state: State) -> bool:
    """Plan what was applied already. True: nothing is to be done."""
    seen = {address: Seen(Presence.PRESENT) for address in state.resources}
    return make_plan(desired_resources(spec), state, seen).is_empty


def command(project: Path, environ: dict[str, str], state: State) -> None:
    """`falplan plan` of what was applied already, beside the control plane that has all of it."""
    store = LocalState(project / ".falplan")
    if store.read("many") is None:
        with store.locked("bench"):
            store.save(state)
    argv = [sys.executable, "-m", "falplan", "-C", str(project), "plan", "--detailed-exitcode"]
    done = subprocess.run(argv, env=environ, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "No changes. What was applied matches the spec.\n"), done


@contextmanager
def serving(folder: Path, state: State) -> Iterator[dict[str, str]]:
    """A control plane that knows every app of the state, as if it had deployed them. Yields the environment to reach it."""
    environ = {**os.environ, "XDG_STATE_HOME": str(folder), "FALPLAN_MACHINE_DIR": str(folder / "ledger")}
    home = home_of(LINEAGE, environ)
    home.make()
    home.locks.mkdir()
    (home.locks / f"{LOCK}.json").write_text("{}")
    database = Database.open(home.database)
    identity = {"control_plane_id": CONTROL_PLANE, "lineage": LINEAGE, "epoch": "1"}
    asyncio.run(ControlStore(database).identity(identity))
    asyncio.run(ControlStore(database).save(*rows_of(state)))
    database.close()
    with (folder / "serve.log").open("wb") as log:
        argv = [sys.executable, "-m", "falplan", "serve", "--home", str(home.folder)]
        process = subprocess.Popen(argv, env=environ, stdout=log, stderr=log)
    try:
        while home.endpoint() is None:
            assert process.poll() is None, (folder / "serve.log").read_text()
            time.sleep(0.05)
        yield environ
    finally:
        process.terminate()
        process.wait(30)


def rows_of(state: State) -> Iterator[AppRow | RevisionRow]:
    """What the control plane remembers of each app."""
    for address, recorded in state.resources.items():
        if recorded.type == ResourceType.APP.value:
            inputs, revision = recorded.inputs, str(recorded.outputs["revision"])
            settings, types = (
                cast("JsonObject", inputs["settings"]),
                cast("dict[str, JsonObject]", inputs["machine_types"]),
            )
            definition = make_definition(inputs, lock=LOCK, bundle="0" * 64, machine_types=types)
            endpoint = str(inputs["endpoint"])
            yield RevisionRow(endpoint, revision, definition_to_json(definition), 0)
            yield AppRow(endpoint, address, revision, inputs, split_settings(settings)[1])


def median(work: Callable[[], object], *, rounds: int = ROUNDS) -> float:
    """Seconds of wall time, the median of some rounds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
