"""The fake provider that owns resources: it keeps every promise, on disk and in memory, and its history tells who does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.errors import FalplanError
from falplan.core.values import Json
from falplan.sdk.resources import Declared, Denied, Failed, Found, Mark, ResourceKind, Resources, Say, Standing
from falplan.sdk.shell import Unreachable
from falplan.sdk.testing.conformance import check_provider, check_resources
from falplan.sdk.testing.declaring import declared_by
from falplan.sdk.testing.disk import DiskWorld
from falplan.sdk.testing.history import made, violations
from falplan.sdk.testing.memory import Died, MemoryWorld
from falplan.sdk.testing.rules import Fault, Moment, Rule, rules_from_json, rules_to_json
from falplan.sdk.testing.things import Thing, World
from falplan.sdk.testing.verbs import Verb
from falplan.sdk.testing.world import WorldProvider, install, provider

HOST = Declared(
    ResourceKind.HOST, "one", {"size": "small", "disk": 10, "tags": {}}, immutable=frozenset({"size"}), managed=True
)
MARK = Mark("mine", "host.lab.one", "operation-1")


def silent(line: str) -> None:
    """Nobody wants to see it."""


def set_faults(world: World, *rules: Rule) -> None:
    if isinstance(world, DiskWorld):
        world.set_faults(rules)
    else:
        assert isinstance(world, MemoryWorld)
        world.faults = list(rules)


@pytest.fixture(params=["memory", "disk"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    disk = DiskWorld(tmp_path / "world")
    yield disk
    disk.clear()


def the_region(world: World) -> WorldProvider:
    options: dict[str, Json] = {"world": "/nowhere", "network": {}, "hosts": {"one": {}, "two": {"after": ["one"]}}}
    return WorldProvider("lab", world, options)


def stop(world: World, identity: str) -> None:
    """As somebody else does who stops a host."""
    with world.locked():
        (thing,) = [t for t in world.things("lab") if t.identity == identity]
        stopped = replace(thing, standing=Standing.STOPPED, because="stopped by hand", version=thing.version + 1)
        world.put(stopped, instead=thing)


def test_the_world_keeps_every_promise(world: World) -> None:
    """Seen red with each of the twins below."""
    resources = the_region(world)
    check_resources(
        resources, HOST, replace(HOST, inputs={**HOST.inputs, "disk": 20}), stop=lambda f: stop(world, f.identity)
    )

    assert violations(world.notes()) == []


def test_its_regions_have_no_machines(world: World) -> None:
    check_provider(the_region(world))


class _Forgetful(WorldProvider):
    """A naive twin: `create` makes one, whatever is there."""

    def _taken(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> Thing | None:
        return None


class _Everybodys(WorldProvider):
    """A naive twin: `look` shows what others own."""

    def look(self, owner: str, known: object) -> list[Found]:
        return [t.found() for t in self.world.things(self.region)]


class _Halfhearted(WorldProvider):
    """A naive twin: `update` leaves stopped what is stopped."""

    def update(self, wanted: Declared, mark: Mark, identity: str, *, say: Say) -> Found:
        before = self._thing(identity, mark)
        found = WorldProvider.update(self, wanted, mark, identity, say=say)
        if before is None or before.standing is Standing.UP:
            return found
        stop(self.world, identity)
        return replace(found, standing=Standing.STOPPED)


class _Greedy(WorldProvider):
    """A naive twin: a replacement takes what it is to stand beside."""

    def _taken(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> Thing | None:
        return WorldProvider._taken(self, verb, wanted, mark, "")


class _Thief(WorldProvider):
    """A naive twin: `create` takes what another owner made."""

    def _taken(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> Thing | None:
        return next((t for t in self.world.things(self.region, mark.address) if t.identity != besides), None)

    def _thing(self, identity: str, mark: Mark) -> Thing | None:
        return next((t for t in self.world.things(self.region) if t.identity == identity), None)


class _Broom(WorldProvider):
    """A naive twin: `delete` removes all of an address."""

    def _going(self, mark: Mark, identity: str) -> list[Thing]:
        return WorldProvider._going(self, mark, "")


class _Careless(WorldProvider):
    """A naive twin: `delete` removes what another owner made."""

    def _going(self, mark: Mark, identity: str) -> list[Thing]:
        return [t for t in self.world.things(self.region) if t.identity == identity] or WorldProvider._going(
            self, mark, identity
        )


class _Believer(WorldProvider):
    """A naive twin: `remains` takes what was asked for as done."""

    def remains(self, mark: Mark, identity: str) -> bool:
        return False


@pytest.mark.parametrize(
    ("twin", "rule"),
    [
        (_Greedy, "is not taken for it"),
        (_Thief, "another owner made is never taken"),
        (_Broom, "is removed alone"),
        (_Believer, "what is there remains"),
        (_Careless, "nor is it removed"),
        (_Forgetful, "the same operation makes one thing"),
        (_Everybodys, "never shown"),
        (_Halfhearted, "brings up what is stopped"),
    ],
)
def test_the_suite_finds_naive_twins(twin: type[WorldProvider], rule: str) -> None:
    world = MemoryWorld()
    changed = replace(HOST, inputs={**HOST.inputs, "disk": 20})
    with pytest.raises(AssertionError, match=rule):
        check_resources(
            twin("lab", world, {"world": "/nowhere"}), HOST, changed, stop=lambda f: stop(world, f.identity)
        )


def test_the_history_tells_of_a_second_one_and_of_a_wrong_order() -> None:
    """The checker is checked: a twin that ignores marks, and a host before its network."""
    world = MemoryWorld()
    twin = _Forgetful("lab", world)
    for _ in range(2):
        twin.create(HOST, MARK, besides="", say=silent)
    early = replace(HOST, depends_on=((ResourceKind.NETWORK, ""),))
    twin.create(early, Mark("mine", "host.lab.two", "operation-2"), besides="", say=silent)

    found = violations(world.notes())
    assert len(found) == 3
    assert "second one" in found[0] and "before network.lab" in found[1] and "operation-1 made" in found[2]
    assert made(world.notes()) == {"operation-1": 2, "operation-2": 1}


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.FAIL, Failed),
        (Fault.LOSE, FalplanError),
        (Fault.HANG, FalplanError),
        (Fault.DENY, Denied),
        (Fault.UNREACHABLE, Unreachable),
    ],
)
def test_whatever_becomes_of_a_call_it_can_be_asked_for_again(
    world: World, fault: Fault, error: type[FalplanError], moment: Moment
) -> None:
    resources = the_region(world)
    set_faults(world, Rule(fault, moment, "create"))
    with pytest.raises(error):
        resources.create(HOST, MARK, besides="", say=silent)
    there = len(resources.look("mine", {}))
    found = resources.create(HOST, MARK, besides="", say=silent)

    assert there == (0 if moment is Moment.BEFORE else 1)
    assert list(resources.look("mine", {})) == [found]
    assert violations(world.notes()) == []


@pytest.mark.parametrize("moment", list(Moment))
def test_what_was_done_before_a_death_is_there_after_it(moment: Moment) -> None:
    """In memory a death is an exception that nothing catches, after which the world does nothing more for that process."""
    world = MemoryWorld()
    resources = the_region(world)
    world.faults = [Rule(Fault.DIE, moment, "create")]
    with pytest.raises(Died):
        resources.create(HOST, MARK, besides="", say=silent)
    with pytest.raises(Died):
        resources.look("mine", {})
    world.restart()
    world.faults = []
    there = len(resources.look("mine", {}))
    resources.create(HOST, MARK, besides="", say=silent)

    assert there == (0 if moment is Moment.BEFORE else 1)
    assert len(resources.look("mine", {})) == 1
    assert violations(world.notes()) == []


KILLED = """
import sys
from falplan.sdk.resources import Mark
from falplan.sdk.testing.verbs import Verb
from falplan.sdk.testing.world import provider
region = provider("lab", {"world": sys.argv[1], "hosts": {"one": {}}})
region.create(region.declared()[0], Mark("mine", "host.lab.one", "operation-1"), besides="", say=print)
"""


@pytest.mark.parametrize("moment", list(Moment))
def test_a_process_that_is_killed_in_a_call_holds_nothing_up(tmp_path: Path, moment: Moment) -> None:
    """Seen red with a world that took calls of a dead process for calls under way."""
    world = DiskWorld(tmp_path / "world")
    world.set_faults([Rule(Fault.DIE, moment)])
    died = subprocess.run([sys.executable, "-c", KILLED, str(world.folder)], env=_environ(), capture_output=True)
    resources = provider("lab", {"world": str(world.folder), "hosts": {"one": {}}})
    found = resources.create(resources.declared()[0], MARK, besides="", say=silent)

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert list(resources.look("mine", {})) == [found]
    assert violations(world.notes()) == []
    world.clear()


def test_two_processes_that_change_the_world_at_once_are_told_of(tmp_path: Path) -> None:
    """Seen red with a world that looked at its own process's calls alone."""
    world = DiskWorld(tmp_path / "world")
    held = tmp_path / "held"
    held.touch()
    world.set_faults([Rule(Fault.HANG, Moment.BETWEEN, until=str(held), seconds=60)])
    command = [sys.executable, "-c", KILLED, str(world.folder)]
    with subprocess.Popen(command, env=_environ(), stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        while not any(n["event"] == "fault" for n in world.notes()):
            assert other.poll() is None
        resources = provider("lab", {"world": str(world.folder)})
        resources.create(replace(HOST, name="two"), replace(MARK, address="host.lab.two"), besides="", say=silent)
        held.unlink()
    assert other.returncode == 0
    assert len([v for v in violations(world.notes()) if "changes the world while" in v]) == 1
    world.clear()


def test_looks_lag_as_long_as_a_rule_says(world: World) -> None:
    resources = the_region(world)
    set_faults(world, Rule(Fault.LAG, verb="create", looks=2))
    found = resources.create(HOST, MARK, besides="", say=silent)

    assert [list(resources.look("mine", {})) for _ in range(4)] == [[], [], [found], [found]]


def test_what_nobody_marked_is_shown_to_who_knows_it_and_marked_by_an_update(world: World) -> None:
    """Seen red with an update that left its mark off; on disk, with one that left a second file."""
    resources = the_region(world)
    stray = Thing("h-stray", "lab", ResourceKind.HOST, "one", dict(HOST.inputs))
    with world.locked():
        world.put(stray)
    unseen = resources.look("mine", {})
    known = resources.look("mine", {MARK.address: stray.found()})
    after = resources.update(HOST, MARK, "h-stray", say=silent)

    assert (list(unseen), list(known)) == ([], [stray.found()])
    assert list(resources.look("mine", {})) == [after]
    assert resources.read(replace(HOST, managed=False), say=silent) == after


def test_what_can_not_be_brought_to_what_is_wanted_makes_way(world: World) -> None:
    resources = the_region(world)
    small = resources.create(HOST, MARK, besides="", say=silent)
    large = replace(HOST, inputs={**HOST.inputs, "size": "large"})
    with pytest.raises(Failed, match="can't be changed"):
        resources.update(large, MARK, small.identity, say=silent)
    found = resources.create(large, replace(MARK, operation="operation-2"), besides="", say=silent)

    assert list(resources.look("mine", {})) == [found]
    assert found.identity != small.identity
    assert violations(world.notes()) == []


def test_the_network_comes_before_its_hosts_and_options_are_checked(tmp_path: Path) -> None:
    found = the_region(MemoryWorld()).declared()
    untouched = provider("lab", {"world": str(tmp_path / "world"), "hosts": {"one": {}}})
    untouched.declared()

    assert [(d.kind.value, d.name) for d in found] == [("network", ""), ("host", "one"), ("host", "two")]
    assert found[2].depends_on == ((ResourceKind.NETWORK, ""), (ResourceKind.HOST, "one"))
    assert not (tmp_path / "world").exists()
    for options in (
        {"world": "w", "hots": {}},
        {"world": "w", "hosts": {"a": {"siz": 1}}},
        {},
        {"world": "w", "hosts": 3},
    ):
        with pytest.raises(FalplanError):
            declared_by("lab", options)  # type: ignore[arg-type]


def test_rules_come_back_as_they_were_written() -> None:
    rules = [Rule(Fault.HANG, Moment.AFTER, "create", "host.*", 3, 0, "/f", 1.5, 2), Rule(Fault.DIE)]

    assert rules_from_json(rules_to_json(rules)) == rules  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        rules_from_json([{"fault": "die", "moments": "after"}])


def test_other_processes_find_it_by_name(tmp_path: Path) -> None:
    environ = {**os.environ, **install(tmp_path)}
    code = "from falplan.registry import *; print(available(), releases(['fake'], ''), provider_of('fake', 'lab', {'world': 'w'}))"
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)

    assert "'fake'" in ran.stdout and "falplan-fake" in ran.stdout and "WorldProvider" in ran.stdout, ran.stderr


def test_it_is_a_provider_of_resources() -> None:
    assert isinstance(the_region(MemoryWorld()), Resources)


def _environ() -> dict[str, str]:
    paths = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": paths}
