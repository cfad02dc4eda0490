"""Hosts and networks of a provider, through the real command line: made, changed, found again, imported, refused, removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from falplan.core.values import JsonObject
from falplan.sdk.resources import ResourceKind
from falplan.sdk.testing.rules import Fault, Rule
from falplan.sdk.testing.things import Thing
from tests.faults.provided import APPLY, REGION, Fleet
from tests.faults.sandbox import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet(hosts={"a": {"disk": 1}, "b": {"disk": 2, "after": ["a"]}, "c": {"disk": 3}})
    try:
        yield fleet
    finally:
        fleet.clean()


def put(fleet: Fleet, thing: Thing, instead: Thing | None = None) -> None:
    with fleet.world.locked():
        fleet.world.put(thing, instead=instead)


def host(fleet: Fleet, name: str) -> Thing:
    return next(t for t in fleet.things() if t.name == name)


def test_hosts_live_from_the_first_apply_to_the_last(fleet: Fleet) -> None:
    fleet.apply()
    fleet.check_applied()
    first = host(fleet, "a")

    put(fleet, replace(first, inputs={**first.inputs, "disk": 99}, version=7), instead=first)
    drift = fleet.run("drift")
    assert drift.code == 2
    assert "host.lab.a" in drift.out and "1 -> 99" in drift.out

    fleet.hosts["b"]["size"] = "large"
    fleet.hosts["d"] = fleet.hosts.pop("c")
    fleet.write()
    text = (fleet.project / "falplan.yaml").read_text()
    moved = [{"from": "host.lab.c", "to": "host.lab.d"}]
    (fleet.project / "falplan.yaml").write_text(json.dumps({**json.loads(text), "moved": moved}))
    same = host(fleet, "c").identity
    out = fleet.must("plan").out
    assert "(moved from host.lab.c)" in out
    assert "host.lab.b must be replaced" in out
    fleet.apply()
    assert next(t for t in fleet.things() if t.address == "host.lab.d").identity == same

    fleet.must("destroy", "--auto-approve")
    assert fleet.things() == []
    fleet.check_nothing_left()


def test_what_state_forgot_is_taken_again_or_goes(fleet: Fleet) -> None:
    """Seen red with strays left out of the plan."""
    fleet.apply()
    before = {t.name: t.identity for t in fleet.things()}
    state = fleet.must("state", "pull").out
    fleet.hosts["d"] = {"disk": 4}
    fleet.write()
    fleet.apply()
    (fleet.folder / "old.json").write_text(state)
    fleet.must("state", "push", "--force", "--auto-approve", str(fleet.folder / "old.json"))

    fleet.must("plan")
    kept = host(fleet, "d").identity
    assert "it exists already and carries this project's mark: it is taken" in fleet.must("plan").out
    fleet.apply()
    fleet.check_applied()
    assert host(fleet, "d").identity == kept

    fleet.must("state", "push", "--force", "--auto-approve", str(fleet.folder / "old.json"))
    del fleet.hosts["d"]
    fleet.write()
    assert "host.lab.d will be destroyed" in fleet.must("plan").out
    fleet.apply()
    assert {t.name: t.identity for t in fleet.things()} == before


def test_something_that_exists_is_imported_and_marked(fleet: Fleet) -> None:
    fleet.apply()
    inputs: JsonObject = {"size": "small", "disk": 5, "tags": {}}
    outputs: JsonObject = {"id": "h-77777777", "ip": "10.9.9.9"}
    put(fleet, Thing("h-77777777", REGION, ResourceKind.HOST, "", inputs, outputs, "", "", ""))
    fleet.hosts["e"] = {"disk": 5}
    fleet.write()
    fleet.must("import", "host.lab.e", "h-77777777")
    assert "it carries no mark of host" not in fleet.must("plan").out
    fleet.apply()

    assert next(t for t in fleet.things() if t.identity == "h-77777777").address == "host.lab.e"
    assert fleet.run("plan", "--detailed-exitcode").code == 0


def test_refused_credentials_stop_an_apply_before_it_tries_anything_else(fleet: Fleet) -> None:
    """Seen red without it: each host was asked for with credentials that had just been refused."""
    fleet.hosts = {f"h{n}": {"disk": n} for n in range(6)}
    fleet.write()
    fleet.world.set_faults([Rule(Fault.DENY, verb="create", address="host.*", nth=2, times=0)])
    ran = fleet.run("apply", "--auto-approve", "--parallelism", "1")

    assert ran.code == 1
    assert "Nothing else was begun: credentials are refused." in ran.err
    assert sum(t.kind is ResourceKind.HOST for t in fleet.things()) == 1
    fleet.world.set_faults([])
    fleet.apply()
    fleet.check_applied()


def test_a_region_that_does_not_answer_leaves_its_hosts_unknown(fleet: Fleet) -> None:
    """Never gone: seen red with an empty answer in place of the error."""
    fleet.apply()
    fleet.world.set_faults([Rule(Fault.UNREACHABLE, verb="look", times=0)])

    drift = fleet.run("drift")
    assert (drift.code, "host.lab.a" in drift.out) == (1, True)
    assert fleet.run("apply", "--auto-approve").code == 1
    assert len(fleet.things()) == 4


def test_a_saved_plan_is_stale_once_a_host_was_changed_by_hand(fleet: Fleet) -> None:
    fleet.apply()
    fleet.hosts["a"]["disk"] = 50
    fleet.write()
    fleet.must("plan", "--out", "p.plan")
    was = host(fleet, "a")
    put(fleet, replace(was, inputs={**was.inputs, "tags": {"by": "hand"}}, version=9), instead=was)
    ran = fleet.run("apply", "p.plan")

    assert ran.code == 6
    assert "host.lab.a" in ran.err
    assert host(fleet, "a").inputs["disk"] == 1


def test_hosts_of_a_region_that_left_the_spec_are_removed_where_they_are(fleet: Fleet) -> None:
    fleet.apply()
    spec = json.loads((fleet.project / "falplan.yaml").read_text())
    (fleet.project / "falplan.yaml").write_text(json.dumps({**spec, "regions": {"here": {"provider": "local"}}}))
    assert fleet.must("plan").out.count("will be destroyed") == 4
    fleet.must("apply", "--auto-approve")

    assert fleet.things() == []
    assert fleet.run("plan", "--detailed-exitcode").code == 0


def test_something_that_is_only_looked_at_is_neither_made_nor_removed(fleet: Fleet) -> None:
    fleet.apply()
    inputs: JsonObject = {"size": "small", "disk": 5, "tags": {}}
    put(fleet, Thing("h-88888888", REGION, ResourceKind.HOST, "theirs", inputs, {"id": "h-88888888"}, "", "", ""))
    spec = json.loads((fleet.project / "falplan.yaml").read_text())
    spec["regions"][REGION]["existing"] = {"theirs": {}}
    (fleet.project / "falplan.yaml").write_text(json.dumps(spec))
    assert "<= host.lab.theirs will be read during apply" in fleet.must("plan").out
    fleet.must("apply", "--auto-approve")
    assert fleet.run("plan", "--detailed-exitcode").code == 0

    out = fleet.must("destroy", "--auto-approve").out
    assert "host.lab.theirs" in out
    assert [t.identity for t in fleet.things()] == ["h-88888888"]


POINTS = ["host.before_act", "host.after_act", "network.before_act", "network.after_act"]


@pytest.mark.parametrize(
    "point", [*(f"apply.{p}" for p in POINTS), "journal.begin.after_fsync", "journal.done.before_write"]
)
def test_killed_at_any_point_the_next_apply_finishes(fleet: Fleet, point: str) -> None:
    ran = fleet.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=f"{point}=kill@{1 if 'network' in point else 2}")
    assert ran.code == -9
    fleet.check_whole()
    fleet.apply()
    fleet.check_applied()


@pytest.mark.parametrize("point", ["before_create", "before_delete"])
def test_a_replacement_that_is_killed_half_way_ends_with_one(fleet: Fleet, point: str) -> None:
    """Old and new, or neither, are there for a moment. Seen red with an apply that removes no leftovers."""
    for body in fleet.hosts.values():
        body["create_first"] = point == "before_delete"
    fleet.write()
    fleet.apply()
    fleet.hosts["b"]["size"] = "large"
    fleet.write()
    assert fleet.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=f"provided.replace.{point}=kill").code == -9
    assert sum(t.name == "b" for t in fleet.things()) == (2 if point == "before_delete" else 0)

    fleet.hosts["b"]["size"] = "small"
    fleet.write()
    fleet.apply()
    fleet.check_applied()


def test_options_without_a_meaning_are_shown_where_they_stand(fleet: Fleet) -> None:
    """Seen red with a bare error: exit code 1, and no line."""
    spec = json.loads((fleet.project / "falplan.yaml").read_text())
    spec["regions"][REGION]["hots"] = {}
    spec["regions"]["other"] = {"provider": "fake"}
    (fleet.project / "falplan.yaml").write_text(json.dumps(spec, indent=1))
    ran = fleet.run("plan")

    assert ran.code == 3
    assert ran.err.count("falplan.yaml:") == 2
    assert '"hots"' in ran.err and "^" in ran.err


def test_a_host_that_is_moved_to_nothing_is_told_like_an_app(fleet: Fleet) -> None:
    spec = json.loads((fleet.project / "falplan.yaml").read_text())
    moved = [{"from": "host.lab.x", "to": "host.lab.aa"}, {"from": "host.lab.b", "to": "host.lab.c"}]
    (fleet.project / "falplan.yaml").write_text(json.dumps({**spec, "moved": moved}, indent=1))
    ran = fleet.run("plan")

    assert ran.code == 3
    assert "host.lab.aa is not in the spec" in ran.err and "did you mean" in ran.err
    assert "host.lab.b moved, and is still in the spec" in ran.err


def test_whoever_looks_or_waits_while_an_apply_is_at_work_is_told_of_it(fleet: Fleet) -> None:
    fleet.apply()
    gate = fleet.folder / "gate"
    gate.touch()
    fleet.world.set_faults([Rule(Fault.HANG, verb="create", until=str(gate), seconds=100)])
    fleet.hosts["d"] = {}
    fleet.write()
    working = fleet.start(*APPLY)
    try:
        wait_until(lambda: (fleet.project / ".falplan" / "state.journal").exists(), 30)
        wait_until(lambda: any(n["verb"] == "create" and n["event"] == "fault" for n in fleet.world.notes()), 30)
        by = f"(pid {working.pid}) holds it for `apply` since"
        for command in (["plan"], ["drift"]):
            ran = fleet.run(*command)
            assert "Warning: the state is being changed, and is locked." in ran.err and by in ran.err, ran.err
        refused = fleet.run(*APPLY)
        waited = fleet.run(*APPLY, "--lock-timeout", "0.3")
    finally:
        gate.unlink()
        out, err = working.communicate(timeout=60)

    assert (refused.code, waited.code, working.returncode) == (4, 4, 0), out + err
    assert by in refused.err and "; that process runs" in refused.err
    assert "or wait with --lock-timeout SECONDS" in refused.err
    assert "Waiting for the state's lock." not in refused.err
    assert waited.err.count("Waiting for the state's lock.") == 1
    assert "It was not free within 0.3 s" in waited.err
    assert "is being changed" not in fleet.run("plan").err


def test_a_state_that_is_gone_is_told_of_and_makes_nothing_twice(fleet: Fleet) -> None:
    """Its copies tell that there was one, and so does what this machine remembers. Seen red with what is gone taken for a new project."""
    fleet.apply()
    fleet.hosts["d"] = {}
    fleet.write()
    fleet.apply()
    before, state = fleet.things(), fleet.project / ".falplan" / "state.json"
    copy = state.read_bytes()
    for gone in (False, True):
        state.unlink()
        if gone:
            shutil.rmtree(state.parent / "backups")
        for command in (["plan"], [*APPLY], ["destroy", "--auto-approve"], ["state", "list"], ["drift"]):
            ran = fleet.run(*command)
            assert (ran.code, "The state is missing" in ran.err) == (6, True), ran.err
        told = fleet.run("state", "repair")
        assert told.code == 1 and ("It can be mended" in told.out) is not gone
        if gone:
            (fleet.folder / "copy.json").write_bytes(copy)
            fleet.must("state", "push", "--force", "--auto-approve", str(fleet.folder / "copy.json"))
        else:
            fleet.must("state", "repair", "--apply", "--auto-approve")
        fleet.apply()
        fleet.check_applied()

        assert [t.identity for t in fleet.things()] == [t.identity for t in before]
