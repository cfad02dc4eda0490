"""A project whose runners are put on machines that are bought: an account that is fake, hosts that are real, and nothing left in the end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from falplan.sdk.testing.fakeec2 import Fault, Strike
from tests.acceptance.load import Load
from tests.faults.sandbox import in_flight
from tests.lab.cloud import SPEED, Cloud, CloudProject, a_cloud
from tests.lab.needed import needed

pytestmark = [pytest.mark.faults, pytest.mark.needs("openssh-server"), pytest.mark.timeout(400)]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with needed(a_cloud()) as made:
        yield made
        assert made.problems == []


@pytest.fixture
def project(cloud: Cloud) -> Iterator[CloudProject]:
    made = CloudProject(cloud)
    yield made
    made.box.clean()


def until(true: Callable[[], Any], explain: Callable[[], object], within: float = 60.0) -> None:
    give_up = time.monotonic() + within
    while not true():
        assert time.monotonic() < give_up, explain()
        time.sleep(0.1)


def leftovers(cloud: Cloud) -> list[str]:
    """What is ours in the account and still there."""
    things = [t.id for t in cloud.account.things.values() if t.id.startswith(("sg-", "lt-", "key-"))]
    return sorted([*things, *(i.id for i in cloud.alive())])


def test_machines_are_bought_used_and_given_back(project: CloudProject) -> None:
    """The whole life: a plan with prices, a deploy, scaling from none to three and back, a new revision, and the end."""
    cloud = project.cloud
    plan = json.loads(project.must("plan", "--json"))
    [machine] = plan["falplan"]["purchases"]["machines"]
    assert (machine["kinds"][0], machine["price_per_hour"], machine["apps"]) == ("p5.4xlarge", "6.88", ["app.main.app"])
    assert not cloud.fake.calls_of("Run*", "Create*"), "a plan changes nothing"

    project.apply()
    assert [i.kind.name for i in cloud.alive()] == ["p5.4xlarge"]
    assert project.call(n=1)["version"] == 1
    assert "No changes." in project.must("plan", "--detailed-exitcode")
    [host] = cloud.hosts.values()
    assert (host.disk / "var/lib/falplan/heard").exists(), "what it ends itself without"
    told = json.loads(project.must("machines", "list", "--json"))
    [machine] = told["machines"]
    assert (machine["identity"], machine["life"], machine["runners"]) == (cloud.alive()[0].id, "ready", 1)
    assert "us-east: 1 machine of 4, $6.88 of $100.00 an hour" in project.must("machines", "list")
    assert "us-east: 1 machine of 4, $6.88 of $100.00 an hour" in project.must("plan")
    assert "runners: 1 IDLE" in project.must("why", "app")

    project.least = project.most = 3
    project.apply()
    until(lambda: len(rows(project)) == 3, lambda: rows(project))
    assert len({r["machine"] for r in rows(project)}) == 3 == len(cloud.alive())

    project.version = 2
    project.least = 1
    project.apply()
    assert project.call(n=2)["version"] == 2
    until(lambda: len(cloud.alive()) == 1, lambda: cloud.alive(), 120)
    until(lambda: len(project.machines()) == 1, lambda: project.machines())
    [used] = json.loads(project.must("cost", "--json"))["hours"]
    assert (used["kind"], used["alive"], used["unpriced"]) == ("p5.4xlarge", 1, 0)
    assert used["machines"] == len(cloud.account.instances())
    assert 0 < used["hours"] < 3 and 0 < float(used["usd"]) == pytest.approx(used["hours"] * 6.88, abs=0.02)

    [last] = project.machines()
    assert f"{last} is gone" in project.must("machines", "end", last)
    until(lambda: len(rows(project)) == 1, lambda: rows(project))
    assert [i.id for i in cloud.alive()] != [] and last not in project.machines()

    project.must("destroy", "--auto-approve")
    assert leftovers(cloud) == []
    assert cloud.account.overlaps("falplan:operation") == []


def rows(project: CloudProject) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(project.must("runners", "list", "--json"))
    return [r for r in told if r["state"] in ("IDLE", "RUNNING")]


def test_a_spot_machine_that_is_taken_back_is_replaced_and_its_request_is_done_elsewhere(project: CloudProject) -> None:
    cloud = project.cloud
    project.machine_type, project.region, project.least = "lab-L40S", {"spot": True}, 1
    project.apply()
    [first] = cloud.alive()
    assert first.spot
    started = project.box.start("call", "app", json.dumps({"n": 1, "sleep": 3}), **project.environ)
    until(lambda: in_flight(project.box), lambda: rows(project))
    cloud.account.reclaim(first.id, notice=False)
    out, err = started.communicate(timeout=120)

    assert started.returncode == 0, err + project.box.serve_log()
    assert json.loads(out)["n"] == 1
    assert first.id not in {i.id for i in cloud.alive()} and len(cloud.alive()) == 1
    project.must("destroy", "--auto-approve")
    assert leftovers(cloud) == []


def test_a_spot_machine_that_says_that_it_is_taken_back_is_replaced_before_and_no_request_is_lost(
    project: CloudProject,
) -> None:
    """The notice comes from the machine itself, two minutes before; what runs there serves until another runner does."""
    cloud = project.cloud
    project.machine_type, project.region, project.least, project.most = "lab-L40S", {"spot": True}, 1, 1
    project.apply()
    [first] = cloud.alive()
    load = Load(project.box, 4, "acme/app")
    load.start()
    try:
        until(lambda: load.versions[1] > 5, lambda: load.failures)
        cloud.speed = 1.0  # two minutes are two minutes from here on
        cloud.account.reclaim(first.id)
        until(lambda: first.id not in {i.id for i in cloud.alive()}, lambda: project.must("why"), 150)
        before = load.versions[1]
        until(lambda: load.versions[1] > before + 20, lambda: load.failures)
    finally:
        cloud.speed = SPEED
        load.stop()

    assert load.failures == []
    [second] = cloud.alive()
    assert first.ends_at is not None and second.runs_at < first.ends_at, "it was bought once the first was gone"
    told = project.must("machines", "list", "--all")
    assert "its provider takes it back at" in told, told
    assert first.why is not None and "Spot" not in first.why[0], "it was given back before it was taken"
    project.must("destroy", "--auto-approve")
    assert leftovers(cloud) == []


def test_a_control_plane_that_is_killed_while_it_buys_has_one_machine_afterwards(project: CloudProject) -> None:
    """The answer of the first request is lost, and the control plane dies before it asks again."""
    cloud = project.cloud
    cloud.account.faults.append(Fault("RunInstances", Strike.DONE_DROP))
    project.write()
    first = project.box.start("apply", "--auto-approve", **project.environ)
    until(lambda: cloud.fake.calls_of("RunInstances"), lambda: project.box.serve_log())
    project.box.kill_control_plane()
    first.communicate(timeout=120)
    project.apply()

    assert project.call(n=1)["version"] == 1
    assert len(cloud.alive()) == 1 and len(cloud.account.instances()) == 1
    project.must("destroy", "--auto-approve")
    assert leftovers(cloud) == []


def test_machines_of_a_control_plane_that_is_dead_are_ended_by_destroy(project: CloudProject) -> None:
    """Seen red with a destroy that took the control plane's word, which was not there: the machine went on costing."""
    cloud = project.cloud
    project.apply()
    project.box.kill_control_plane()
    project.must("destroy", "--auto-approve")

    assert leftovers(cloud) == []


def test_room_that_is_kept_free_has_a_machine_before_anybody_needs_it(project: CloudProject) -> None:
    """The next runner starts on it, and another machine is bought in its place; a plan tells both."""
    cloud = project.cloud
    project.least, project.region = 1, {"warm": {"lab-H100": 1}}
    project.write()
    told = json.loads(project.must("plan", "--json"))["falplan"]["purchases"]["machines"]
    assert [m["apps"] for m in told] == [["app.main.app"], []], "one is for nobody yet"
    project.apply()
    until(lambda: len(cloud.alive()) == 2, lambda: project.must("why"))
    until(lambda: all(m["life"] == "ready" for m in machines(project)), lambda: machines(project))
    assert sorted(m["runners"] for m in machines(project)) == [0, 1]

    project.least = 2
    project.apply()
    until(lambda: sorted(m["runners"] for m in machines(project)) == [0, 1, 1], lambda: machines(project))
    project.region = {}
    project.apply()
    until(lambda: len(cloud.alive()) == 2, lambda: project.must("why"), 120)
    project.must("destroy", "--auto-approve")
    assert leftovers(cloud) == []


def machines(project: CloudProject) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(project.must("machines", "list", "--json"))["machines"]
    return told


def test_machines_of_a_control_plane_that_lost_its_data_are_ended_by_the_next(project: CloudProject) -> None:
    """That one lets nobody in but its own control plane: it could be used by nobody, and would cost money until it ends itself."""
    cloud = project.cloud
    project.least = 1
    project.apply()
    [first] = cloud.alive()
    project.box.kill_control_plane()
    [home] = (project.box.folder / "state" / "falplan").iterdir()
    shutil.rmtree(home)
    told = project.must("plan")
    assert f"{first.id} (p5.4xlarge" in told and "nobody knows whether it is needed" in told
    project.apply()

    assert project.call(n=1)["version"] == 1
    until(lambda: first.id not in {i.id for i in cloud.alive()}, lambda: project.must("machines", "list"))
    assert len(cloud.alive()) == 1
    project.must("destroy", "--auto-approve")
    assert leftovers(cloud) == []


def test_a_region_that_leaves_the_spec_is_emptied_and_its_resources_are_removed(project: CloudProject) -> None:
    """The control plane goes on; it knows who sold the machines though the spec does not name the region any more."""
    cloud = project.cloud
    project.apply()
    spec = {"version": 1, "project": "cloud", "owner": "acme", "gateway": {"ephemeral": True}}
    (project.box.project / "falplan.yaml").write_text(json.dumps(spec))
    project.must("apply", "--auto-approve")

    assert leftovers(cloud) == []
    assert "No changes." in project.must("plan", "--detailed-exitcode")
    project.must("destroy", "--auto-approve")
