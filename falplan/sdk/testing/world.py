"""The provider `fake`: hosts and a network in a world of its own, on disk or in memory, with faults where a test wants them.

A region with it, in a spec:

    regions:
      lab:
        provider: fake
        world: /tmp/world                # a folder that processes share
        network: {cidr: 10.1.0.0/16}
        hosts:
          a: {size: large, disk: 20, tags: {team: red}}
          b: {after: [a], create_first: true}
        existing: {c: {}}                # is looked at, and not managed

Its hosts run nothing. `size` and `cidr` mean another resource, the rest changes in place; `user_data` can't be read back. Whatever
is called is written to the world's history, from which `falplan.sdk.testing.history` tells what went against the rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from falplan import __version__
from falplan.core.values import Json, JsonObject
from falplan.sdk.resources import Declared, Failed, Found, Mark, ResourceKind, Say, Standing
from falplan.sdk.shell import Shell, Unreachable
from falplan.sdk.testing.declaring import address_of, declared_by
from falplan.sdk.testing.disk import DiskWorld
from falplan.sdk.testing.rules import Moment
from falplan.sdk.testing.things import WRITE_ONLY, Call, Thing, World
from falplan.sdk.testing.verbs import Verb
from falplan.sdk.values import Machine


def provider(region_name: str, options: Mapping[str, Json]) -> WorldProvider:
    """The region `region_name` in the world on disk that its options name.

    Raises:
        FalplanError: an option is unknown or has no meaning.
    """
    declared_by(region_name, options)
    return WorldProvider(region_name, DiskWorld(Path(str(options["world"]))), options)


DIFFERENT: JsonObject = {"differs": "yes"}
"""Tags of what is not as it was asked for."""
FACTORY = f"{__name__}:provider"


def install(folder: Path, factory: str = FACTORY) -> dict[str, str]:
    """Make the provider known by the name `fake` to processes that get the returned variables in their environment.

    `factory` is the `module:function` that makes it, as an entry point names it.
    """
    about = folder / "falplan_fake.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: falplan-fake\nVersion: {__version__}\n")
    (about / "entry_points.txt").write_text(f"[falplan.providers]\nfake = {factory}\n")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


@dataclass(slots=True)
class WorldProvider:
    """One region of a fake world. It has no machines that runners could be put on."""

    region: str
    world: World
    options: Mapping[str, Json] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "fake"

    def machines(self) -> list[Machine]:
        return []

    def shell(self, machine: Machine) -> Shell:
        raise Unreachable("No way onto the host", f"The hosts of {self.region} are files.")

    def declared(self) -> list[Declared]:
        return declared_by(self.region, self.options)

    def look(self, owner: str, known: Mapping[str, Found]) -> list[Found]:
        with self._verb("look", self.region):
            identities = {found.identity for found in known.values()}
            with self.world.locked():
                there = _as_shown(self.world, self.region)
            return [t.found() for t in there if t.owner == owner or (not t.owner and t.identity in identities)]

    def create(self, wanted: Declared, mark: Mark, *, besides: str, say: Say) -> Found:
        with self._verb("create", mark.address, mark.operation) as verb:
            with self.world.locked():
                thing = self._taken(verb, wanted, mark, besides) or self._made(verb, wanted, mark, besides)
            say(f"{thing.identity} is there")
            verb.reach(Moment.BETWEEN)
            with self.world.locked():
                return self._bring(verb, wanted, mark, thing.identity).found()

    def update(self, wanted: Declared, mark: Mark, identity: str, *, say: Say) -> Found:
        with self._verb("update", mark.address, mark.operation) as verb:
            verb.reach(Moment.BETWEEN)
            with self.world.locked():
                thing = self._thing(identity, mark)
                if thing is not None and _immutable_differ(thing, wanted):
                    raise Failed("It can't be changed so", f"{identity} keeps {', '.join(sorted(wanted.immutable))}.")
                return self._bring(verb, wanted, mark, identity).found()

    def delete(self, mark: Mark, identity: str, *, say: Say) -> None:
        with self._verb("delete", mark.address, mark.operation) as verb:
            with self.world.locked():
                going = self._going(mark, identity)
                for thing in going:
                    stopped = replace(thing, standing=Standing.STOPPED, because="it is being removed")
                    self.world.put(replace(stopped, version=thing.version + 1))
            verb.reach(Moment.BETWEEN)
            with self.world.locked():
                for thing in () if verb.differs else going:
                    verb.lagging(thing.identity, thing)
                    self.world.remove(thing)
                    verb.effect("removed", thing.identity)

    def remains(self, mark: Mark, identity: str) -> bool:
        with self._verb("read", mark.address), self.world.locked():
            return bool(self._going(mark, identity))

    def read(self, wanted: Declared, *, say: Say) -> Found:
        with self._verb("read", address_of(wanted.kind, self.region, wanted.name)):
            with self.world.locked():
                there = self.world.things(self.region)
            for thing in there:
                if (thing.kind, thing.name) == (wanted.kind, wanted.name):
                    return thing.found()
            raise Failed("It is not there", f"Nothing in {self.region} is called {wanted.name}.")

    def _taken(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> Thing | None:
        """What this owner made under this address before. One that can't be brought to what is wanted makes way."""
        for thing in self.world.things(self.region, mark.address):
            if thing.owner != mark.owner or thing.identity == besides:
                continue
            if not _immutable_differ(thing, wanted):
                verb.effect("taken", thing.identity)
                return thing
            self.world.remove(thing)
            verb.effect("removed", thing.identity)
        return None

    def _made(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> Thing:
        self._check_made(verb, wanted, mark, besides)
        identity = f"{wanted.kind.value[0]}-{self.world.number():08d}"
        thing = Thing(
            identity,
            self.region,
            wanted.kind,
            wanted.name,
            {k: v for k, v in wanted.inputs.items() if k in wanted.immutable},
            _outputs(wanted.kind, identity),
            mark.owner,
            mark.address,
            mark.operation,
            Standing.STOPPED,
            "it was never finished",
        )
        verb.lagging(identity, None)
        self.world.put(thing)
        verb.effect("made", identity)
        return thing

    def _check_made(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> None:
        """Write to the history what should not be so while something is made."""
        same = [t for t in self.world.things(self.region, mark.address) if t.owner == mark.owner]
        for thing in same:
            if thing.identity != besides:
                verb.violation(f"a second one is made of {mark.address} beside {thing.identity}")
        for kind, name in wanted.depends_on:
            address = address_of(kind, self.region, name)
            if not self.world.things(self.region, address):
                verb.violation(f"{mark.address} is made before {address}")

    def _bring(self, verb: Verb, wanted: Declared, mark: Mark, identity: str) -> Thing:
        thing = self._thing(identity, mark)
        if thing is None:
            raise Failed("It is not there any more", f"{identity} is gone from {self.region}.")
        brought = replace(
            thing,
            inputs={**wanted.inputs, **({"tags": DIFFERENT} if verb.differs else {})},
            owner=mark.owner,
            address=mark.address,
            operation=mark.operation,
            standing=Standing.UP,
            because="",
            version=thing.version + 1,
        )
        verb.lagging(identity, thing)
        self.world.put(brought, instead=thing)
        verb.effect("changed", identity)
        return brought

    def _thing(self, identity: str, mark: Mark) -> Thing | None:
        thing = self.world.find(self.region, identity)
        if thing is not None:
            _check_owner(thing, mark)
        return thing

    def _going(self, mark: Mark, identity: str) -> list[Thing]:
        if identity:
            thing = self._thing(identity, mark)
            return [thing] if thing else []
        return [t for t in self.world.things(self.region, mark.address) if t.owner == mark.owner]

    @contextmanager
    def _verb(self, name: str, address: str, operation: str = "") -> Iterator[Verb]:
        """One call: its begin, effects and end in the history, and its faults at their moments."""
        with self.world.locked():
            call = Call(self.world.number(), self.world.process(), name, self.region, address, operation)
            verb = Verb(self.world, call)
            verb.begin()
        try:
            verb.reach(Moment.BEFORE)
            yield verb
            verb.reach(Moment.AFTER)
        except Exception as exc:
            verb.end(type(exc).__name__)
            raise
        verb.end("done")


def _as_shown(world: World, region: str) -> list[Thing]:
    """What looks are shown: how it is, or how it was where a rule lets them lag."""
    there = {t.identity: t for t in world.things(region)}
    lags = world.lags()
    here = [lag for lag in lags if lag.region == region]
    if here:
        for lag in reversed(here):
            there.pop(lag.identity, None)
            if lag.before is not None:
                there[lag.identity] = lag.before
        left = [replace(lag, looks=lag.looks - 1) for lag in here if lag.looks > 1]
        world.keep_lags([lag for lag in lags if lag.region != region] + left)
    return [there[identity] for identity in sorted(there)]


def _immutable_differ(thing: Thing, wanted: Declared) -> bool:
    return any(thing.inputs.get(path) != wanted.inputs.get(path) for path in wanted.immutable - WRITE_ONLY)


def _check_owner(thing: Thing, mark: Mark) -> None:
    if thing.owner not in ("", mark.owner):
        raise Failed(
            "It belongs to somebody else", f"{thing.identity} is marked as {thing.owner}'s, and is left alone."
        )


def _outputs(kind: ResourceKind, identity: str) -> JsonObject:
    outputs: JsonObject = {"id": identity}
    if kind is ResourceKind.HOST:
        number = int(identity.rpartition("-")[2])
        outputs["ip"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return outputs
