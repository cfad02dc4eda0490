"""A project of many hosts in a fake world, the real command line run against it, and the checks that must hold after any fault."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from falplan.core.state import State
from falplan.core.values import Json, JsonObject
from falplan.sdk.resources import Standing
from falplan.sdk.testing import world
from falplan.sdk.testing.declaring import declared_by
from falplan.sdk.testing.disk import DiskWorld
from falplan.sdk.testing.history import violations
from falplan.sdk.testing.rules import Fault, Moment, Rule
from falplan.sdk.testing.things import Thing
from falplan.stores.state.interface import Holder
from falplan.stores.state.places import open_store
from tests.stores.state.servers import KEYS, make_bucket, postgres_server, s3_server

from .sandbox import Broken, Ran, Sandbox

REGION = "lab"
LEASE = 5.0
"""Seconds after which a killed holder's lock in S3 is free. Longer than a loaded machine keeps a heartbeat waiting."""
BACKENDS = ("local", "s3", "postgres")
PARALLELISM = "10"


@contextmanager
def place_of(backend: str) -> Iterator[dict[str, Json]]:
    """A `state:` section of this backend, with a real server behind it as long as it is needed."""
    if backend == "s3":
        os.environ.update(KEYS)
        with s3_server() as url:
            make_bucket(url, "states")
            yield {"backend": "s3", "bucket": "states", "key": "state.json", "endpoint_url": url, "region": "us-east-1"}
    elif backend == "postgres":
        with postgres_server() as server:
            yield {"backend": "postgres", "dsn": server.dsn(), "table": "fleet.state"}
    else:
        yield {"backend": "local"}


@dataclass
class Fleet(Sandbox):
    """A project with `hosts` (name -> options) and a network, and no apps. `factory` makes its provider."""

    place: dict[str, Json] = field(default_factory=lambda: {"backend": "local"})
    hosts: dict[str, JsonObject] = field(default_factory=dict)
    cidr: str = "10.1.0.0/16"
    factory: str = world.FACTORY
    lease: float = LEASE

    @property
    def options(self) -> JsonObject:
        return {"world": str(self.folder / "world"), "network": {"cidr": self.cidr}, "hosts": {**self.hosts}}

    @property
    def world(self) -> DiskWorld:
        """The same folder as the spec's."""
        return DiskWorld(self.folder / "world")

    def write(self) -> None:
        spec: JsonObject = {
            "version": 1,
            "project": "fleet",
            "owner": "acme",
            "gateway": {"ephemeral": True},
            "state": self.place,
            "regions": {REGION: {"provider": "fake", **self.options}},
        }
        (self.project / "falplan.yaml").write_text(json.dumps(spec, indent=1))

    def environ(self, **more: str) -> dict[str, str]:
        known = world.install(self.folder / "site", self.factory)
        if self.factory != world.FACTORY:  # a twin, which is no part of what is installed
            known["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parents[2]}"
        return Sandbox.environ(self, **known, **KEYS, FALPLAN_STATE_LEASE=str(self.lease), **more)

    def apply(self) -> Ran:
        """One apply, which waits for the lock of a killed one to be free and has to succeed."""
        return self.must(*APPLY, "--lock-timeout", "60")

    def read_state(self) -> State | None:
        """State as it stands, with its journal.

        Raises:
            StateUnreadable: it is lost.
        """
        return open_store(self.place, "fleet", self.project, self.environ()).read("fleet")

    def holder(self) -> Holder | None:
        """Who holds the state's lock."""
        return open_store(self.place, "fleet", self.project, self.environ()).holder()

    def things(self) -> list[Thing]:
        found = self.world
        with found.locked():
            return found.things(REGION)

    def slow_down(self, seconds: float) -> None:
        """Have each change of the world last, so that there is time to be killed in."""
        slow = [
            Rule(Fault.SLOW, m, verb, times=0, seconds=seconds / 2) for m in Moment for verb in ("create", "update")
        ]
        self.world.set_faults([*slow, Rule(Fault.SLOW, Moment.BETWEEN, "delete", times=0, seconds=seconds)])

    def check_whole(self) -> None:
        """At any instant: state can be read, and what exists leads back to it."""
        state = self.read_state()
        strangers = [t for t in self.things() if state is None or t.owner != state.lineage]
        if strangers:
            raise Broken(f"nobody knows {strangers}")

    def check_applied(self, *, overlaps: bool = False) -> None:
        """After an apply that succeeded: the next plan is empty, and the world holds what is wanted, once, and nothing else.

        With `overlaps`, calls of two processes may have been under way at one time.
        """
        ran = self.run("plan", "--detailed-exitcode")
        if ran.code != 0:
            raise Broken(f"the plan after apply is not empty (exit {ran.code})\n{ran.out[-4000:]}\n{ran.err[-2000:]}")
        wanted = {(d.kind, d.name): d.inputs for d in declared_by(REGION, self.options)}
        things = self.things()
        found = {(t.kind, t.name): t.inputs for t in things}
        if found != wanted or len(things) != len(wanted) or any(t.standing is not Standing.UP for t in things):
            raise Broken(f"the world is not as wanted:\n{_difference(wanted, found)}\n{len(things)} of {len(wanted)}")
        self._check_known(things)
        notes = self.world.notes()
        wrong = violations([n for n in notes if n["event"] != "violation"] if overlaps else notes)
        if wrong:
            raise Broken("\n".join(wrong[:20]))

    def _check_known(self, things: list[Thing]) -> None:
        state = self.read_state()
        recorded = {a: r for a, r in state.resources.items() if a != "gateway"} if state else {}
        known = {a: str(r.outputs.get("id")) for a, r in recorded.items() if not r.intent}
        there = {t.address: t.identity for t in things}
        if known != there:
            raise Broken(f"state and world do not agree:\n{_difference(known, there)}")

    def clean(self, patience: float = 20.0) -> None:
        Sandbox.clean(self, patience)
        self.world.clear()


APPLY = ("apply", "--auto-approve", "--parallelism", PARALLELISM)


def some_hosts(number: int, rng: random.Random, first: int = 0) -> dict[str, JsonObject]:
    """New hosts; each tenth waits for another one."""
    hosts: dict[str, JsonObject] = {}
    for n in range(first, first + number):
        after: list[Json] = [rng.choice(sorted(hosts))] if hosts and n % 10 == 0 else []
        body: JsonObject = {"size": rng.choice(["small", "large"]), "disk": rng.randint(1, 9)}
        hosts[f"h{n:05d}"] = {**body, "create_first": n % 3 == 0, **({"after": after} if after else {})}
    return hosts


def change_hosts(fleet: Fleet, rng: random.Random) -> None:
    """Another wish: some are replaced, some updated, some removed with as many new ones, some stay."""
    share = rng.uniform(0.2, 1.0)
    number = len(fleet.hosts)
    for name in sorted(fleet.hosts):
        if rng.random() > share:
            continue
        match rng.choice(["size", "disk", "tags", "remove"]):
            case "size":
                fleet.hosts[name]["size"] = rng.choice(["small", "medium", "large"])
            case "disk":
                fleet.hosts[name]["disk"] = rng.randint(1, 99)
            case "tags":
                fleet.hosts[name]["tags"] = {"team": rng.choice(["red", "blue"])}
            case _:
                del fleet.hosts[name]
    for body in fleet.hosts.values():
        after = [h for h in body.get("after", []) if h in fleet.hosts]  # type: ignore[union-attr]  # a list, as made above
        body.pop("after", None)
        body.update({"after": after} if after else {})
    # Names go on from the largest ever used now and then, and are used again otherwise.
    names = [f"h{n:05d}" for n in range(3 * number) if f"h{n:05d}" not in fleet.hosts]
    spare = some_hosts(number - len(fleet.hosts), rng)
    fleet.hosts |= dict(zip(rng.sample(names, len(spare)), ({**b, "after": []} for b in spare.values()), strict=True))
    if rng.random() < 0.2:
        fleet.cidr = f"10.{rng.randint(1, 99)}.0.0/16"
    fleet.write()


def meddle(fleet: Fleet, rng: random.Random) -> None:
    """Somebody stops a host, changes one and removes one, by hand."""
    found = fleet.world
    with found.locked():
        hosts = [t for t in found.things(REGION) if t.name]
        if len(hosts) < 3:
            return
        stopped, changed, removed = rng.sample(hosts, 3)
        down = replace(stopped, standing=Standing.STOPPED, because="stopped by hand", version=stopped.version + 1)
        found.put(down, instead=stopped)
        found.put(
            replace(changed, inputs={**changed.inputs, "disk": 1000}, version=changed.version + 1), instead=changed
        )
        found.remove(removed)


def _difference(wanted: object, found: object) -> str:
    """The first few differences of two mappings."""
    assert isinstance(wanted, dict) and isinstance(found, dict)
    keys = sorted((k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)), key=str)
    return "\n".join(f"  {k}: {wanted.get(k)} != {found.get(k)}" for k in keys[:10])
