"""One account in one region: what is there, when it can be seen, what it costs. Its time is virtual: it stands still until it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from falplan.sdk.testing.fakeec2.billing import cost
from falplan.sdk.testing.fakeec2.catalog import PARAMETERS, Catalog
from falplan.sdk.testing.fakeec2.faults import OWNER, Bucket, Credential, Fault
from falplan.sdk.testing.fakeec2.principals import MANAGED, Profile, Role
from falplan.sdk.testing.fakeec2.things import Instance, Reservation, Thing
from falplan.sdk.testing.fakeec2.wire import Ec2Error

START = 1_780_000_000.0
"""When an account's time begins, in seconds since 1970."""


SPOT_NOTICE = 120.0
"""Seconds between the notice that a spot instance is taken back and its end."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds of the account's time. `visible` by the first part of an id (`i`, `sg`, …, for IAM `role` and `profile`, `*` for the
    others): from its making on until a call sees something; `state` until a listing shows what an instance does by then; `boot` until it
    runs, `stop` until it is terminated; `kept` for which a terminated one is listed; `tokens` for which a ClientToken is remembered,
    `interfaces` for which the network interface of a terminated instance holds its security groups; `profiles` for which EC2 does not know
    of a new instance profile, and of a role that was put into one; `console` for which an instance has run when its console shows what
    cloud-init wrote."""

    visible: Mapping[str, float] = field(default_factory=dict)
    state: float = 0.0
    boot: float = 20.0
    stop: float = 30.0
    kept: float = 3600.0
    tokens: float = 86_400.0
    interfaces: float = 0.0
    profiles: float = 8.0
    console: float = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the account. `code` is of the error that was answered, empty if none was; `done`: it had its effect."""

    at: float
    action: str
    parameters: Mapping[str, Any]
    code: str = ""
    done: bool = True
    key: str = ""
    service: str = "ec2"


@dataclass(slots=True)
class Account:
    """Everything of one account. Tests write to its fields; calls go through a server.

    `capacity` says how many more instances a pool gives, by (type, AZ id, `spot` or `on-demand`); one that is not in it gives any number.
    `quotas` are vCPUs by (family, market). `stillborn` are pools whose instances end without having run. Whoever assumes a role has to
    know `external_id`, unless it is empty. `caller` is the key of the call that is carried out.
    """

    catalog: Catalog = field(default_factory=Catalog)
    delays: Delays = field(default_factory=Delays)
    now: float = START
    capacity: dict[tuple[str, str, str], int] = field(default_factory=dict)
    quotas: dict[tuple[str, str], int] = field(default_factory=dict)
    stillborn: set[tuple[str, str, str]] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    buckets: dict[str, Bucket] = field(default_factory=dict)  #: by pattern of actions
    credentials: dict[str, Credential] = field(default_factory=lambda: {"AKIAFAKE": Credential()})
    owner: str = OWNER
    external_id: str = ""
    caller: str = ""
    parameters: dict[str, str] = field(default_factory=lambda: dict(PARAMETERS))  #: of SSM, by path
    consoles: dict[str, str] = field(default_factory=dict)  #: by instance id, in place of what cloud-init writes
    roles: dict[str, Role] = field(default_factory=dict)  #: by name
    profiles: dict[str, Profile] = field(default_factory=dict)  #: by name
    managed: set[str] = field(default_factory=lambda: set(MANAGED))  #: ARNs of policies that a role may have
    most_addresses: int = 5
    things: dict[str, Thing] = field(default_factory=dict)
    tokens: dict[tuple[str, str, str], tuple[float, str, list[str]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    _count: int = 0

    def advance(self, seconds: float) -> None:
        """Let time go on."""
        self.now += seconds

    def new_id(self, prefix: str) -> str:
        """The next id: the same in each run of a test, and as long as real ones."""
        self._count += 1
        return f"{prefix}-{hashlib.sha256(f'{prefix} {self._count}'.encode()).hexdigest()[:17]}"

    def new_key(self, prefix: str) -> str:
        """The next id as IAM and STS write them: capitals, without a hyphen."""
        return self.new_id(prefix).replace("-", "").upper()

    # -- seeing -----------------------------------------------------------------------------------------------------------

    def lag(self, prefix: str) -> float:
        """Seconds from the making of one kind of thing until calls see it."""
        return self.delays.visible.get(prefix, self.delays.visible.get("*", 0.0))

    def seen(self, prefix: str) -> Iterator[Thing]:
        """What calls see of one kind, the oldest first."""
        lag = self.lag(prefix)
        for thing in list(self.things.values()):
            shown = thing.id.startswith(f"{prefix}-") and self.now >= thing.made_at + lag
            if shown and not thing.is_forgotten(self.now, self.delays.kept):
                yield thing

    def find(self, prefix: str, wanted: str, code: str) -> Thing:
        """One that calls see.

        Raises:
            Ec2Error: they see none of that id, with this code.
        """
        for thing in self.seen(prefix):
            if thing.id == wanted:
                return thing
        raise Ec2Error(code, f"The ID '{wanted}' does not exist")

    def instances(self, *, alive: bool = False) -> list[Instance]:
        """All that there ever were, whether or not calls see them; or those that cost money or will."""
        found = [t for t in self.things.values() if isinstance(t, Instance)]
        return [i for i in found if i.state(self.now) in ("pending", "running")] if alive else found

    # -- ending -----------------------------------------------------------------------------------------------------------

    def end(self, instance: Instance, code: str, words: str, *, after: float = 0.0) -> None:
        """Begin an instance's end, once."""
        if instance.ends_at is None or instance.ends_at > self.now + after:
            instance.ends_at = self.now + after
            instance.gone_at = instance.ends_at + self.delays.stop
            instance.why = (code, words)

    def reclaim(self, instance_id: str, *, notice: bool = True) -> None:
        """Take a spot instance back: in two minutes, of which its metadata tells, or without a word."""
        instance = self.things[instance_id]
        assert isinstance(instance, Instance) and instance.spot  # noqa: S101 - only these are taken back
        instance.noticed_at = self.now if notice else None
        words = "Server.SpotInstanceTermination: Spot instance termination"
        self.end(instance, "Server.SpotInstanceTermination", words, after=SPOT_NOTICE if notice else 0.0)

    # -- money ------------------------------------------------------------------------------------------------------------

    def seconds(self, instance: Instance) -> float:
        """Those that are paid for: while it runs."""
        since, until = instance.paid(self.now)
        return max(0.0, until - since)

    def bill(self, things: Iterable[Thing] | None = None) -> Decimal:
        """USD that these have cost so far; if none are named, all instances, addresses and reserved capacity that there ever were."""
        found, instances = list(self.things.values()) if things is None else things, self.instances()
        return sum((cost(thing, self.now, instances) for thing in found), Decimal(0))

    def overlaps(self, tag: str) -> list[tuple[str, str, str]]:
        """(value of the tag, id, id) of every two instances that were there at the same time for one thing."""
        found: list[tuple[str, str, str]] = []
        by_value: dict[str, list[Instance]] = {}
        for instance in self.instances():
            if tag in instance.tags:
                by_value.setdefault(instance.tags[tag], []).append(instance)
        for value, those in sorted(by_value.items()):
            those.sort(key=lambda i: i.made_at)
            for number, one in enumerate(those):
                later = [o for o in those[number + 1 :] if one.ends_at is None or o.made_at < one.ends_at]
                found += [(value, one.id, other.id) for other in later]
        return found

    def vcpus(self, family: str, market: str) -> int:
        """vCPUs that count against a quota now: of instances, and of reserved capacity that none of them uses."""
        alive = [i for i in self.instances(alive=True) if i.kind.family == family and i.spot == (market == "spot")]
        held = self.reserved() if market == "on-demand" else []
        unused = sum(r.kind.vcpu * (r.count - len(self.users(r))) for r in held if r.kind.family == family)
        return sum(i.kind.vcpu for i in alive) + unused

    def reserved(self) -> list[Reservation]:
        """Reserved capacity that is paid for now."""
        found = [t for t in self.things.values() if isinstance(t, Reservation)]
        return [r for r in found if r.state(self.now) == "active"]

    def users(self, reservation: Reservation) -> list[Instance]:
        """The instances that run in reserved capacity now."""
        return [i for i in self.instances(alive=True) if i.reservation == reservation.id]
