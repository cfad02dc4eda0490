"""One account in one region: what is there, when it can be seen, what it costs. Its time is virtual: it stands still until it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from falplan.sdk.testing.fakeec2.catalog import Catalog, InstanceType, Zone
from falplan.sdk.testing.fakeec2.faults import Bucket, Credential, Fault
from falplan.sdk.testing.fakeec2.wire import Ec2Error

Tags = dict[str, str]
START = 1_780_000_000.0
"""When an account's time begins, in seconds since 1970."""


PARAMETERS = {
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id": "ami-0aaaaaaaaaaaaaaa1",
}
"""Public parameters of SSM that name the newest image of a kind."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds of the account's time. `visible` by the first part of an id (`i`, `sg`, …, `*` for the others): from its making on until a
    call sees something; `state` until a listing shows what an instance does by then; `boot` until it runs, `stop` until it is terminated;
    `kept` for which a terminated one is listed; `tokens` for which a ClientToken is remembered, `interfaces` for which the network
    interface of a terminated instance holds its security groups."""

    visible: Mapping[str, float] = field(default_factory=dict)
    state: float = 0.0
    boot: float = 20.0
    stop: float = 30.0
    kept: float = 3600.0
    tokens: float = 86_400.0
    interfaces: float = 0.0


@dataclass(slots=True)
class Thing:
    """Anything with an id and tags. `body` is what a description of it says beside them."""

    id: str
    made_at: float
    tags: Tags = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Instance(Thing):
    """`runs_at` and `ends_at` are when it runs and when its end begins; `why` is (code, words) of that end. `fails`: it never runs."""

    kind: InstanceType = field(kw_only=True)
    zone: Zone = field(kw_only=True)
    spot: bool = field(kw_only=True)
    groups: tuple[str, ...] = ()
    runs_at: float = 0.0
    ends_at: float | None = None
    gone_at: float | None = None
    why: tuple[str, str] | None = None
    protected: bool = False
    noticed_at: float | None = None  #: when it was told that it is going to be taken back

    def state(self, now: float) -> str:
        """`pending`, `running`, `shutting-down` or `terminated`."""
        if self.gone_at is not None and now >= self.gone_at:
            return "terminated"
        if self.ends_at is not None and now >= self.ends_at:
            return "shutting-down"
        return "running" if now >= self.runs_at else "pending"

    @property
    def price(self) -> Decimal:
        """USD an hour."""
        return (self.kind.spot or self.kind.price) if self.spot else self.kind.price


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the account. `code` is of the error that was answered, empty if none was; `done`: it had its effect."""

    at: float
    action: str
    parameters: Mapping[str, Any]
    code: str = ""
    done: bool = True
    key: str = ""


@dataclass(slots=True)
class Account:
    """Everything of one account. Tests write to its fields; calls go through a server.

    `capacity` says how many more instances a pool gives, by (type, AZ id, `spot` or `on-demand`); one that is not in it gives any number.
    `quotas` are vCPUs by (family, market). `stillborn` are pools whose instances end without having run.
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
    things: dict[str, Thing] = field(default_factory=dict)
    tokens: dict[tuple[str, str, str], tuple[float, str, list[str]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    consoles: dict[str, str] = field(
        default_factory=dict
    )  #: by instance id, what is on its console in place of keys of its own
    parameters: dict[str, str] = field(default_factory=lambda: dict(PARAMETERS))  #: of SSM, by path
    _count: int = 0

    def advance(self, seconds: float) -> None:
        """Let time go on."""
        self.now += seconds

    def new_id(self, prefix: str) -> str:
        """The next id: the same in each run of a test, and as long as real ones."""
        self._count += 1
        return f"{prefix}-{hashlib.sha256(f'{prefix} {self._count}'.encode()).hexdigest()[:17]}"

    # -- seeing -----------------------------------------------------------------------------------------------------------

    def seen(self, prefix: str) -> Iterator[Thing]:
        """What calls see of one kind, the oldest first."""
        lag = self.delays.visible.get(prefix, self.delays.visible.get("*", 0.0))
        for thing in list(self.things.values()):
            shown = thing.id.startswith(f"{prefix}-") and self.now >= thing.made_at + lag
            if shown and not (isinstance(thing, Instance) and self._is_forgotten(thing)):
                yield thing

    def _is_forgotten(self, instance: Instance) -> bool:
        return instance.gone_at is not None and self.now >= instance.gone_at + self.delays.kept

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
        self.end(instance, "Server.SpotInstanceTermination", words, after=120.0 if notice else 0.0)

    # -- money ------------------------------------------------------------------------------------------------------------

    def seconds(self, instance: Instance) -> float:
        """Those that are paid for: while it runs."""
        until = self.now if instance.ends_at is None else min(self.now, instance.ends_at)
        return max(0.0, until - instance.runs_at)

    def bill(self, instances: Iterable[Instance] | None = None) -> Decimal:
        """USD that these instances have cost so far; all, if none are named."""
        found = self.instances() if instances is None else instances
        return sum((i.price * Decimal(str(self.seconds(i))) / 3600 for i in found), Decimal(0))

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
        """vCPUs that count against a quota now."""
        alive = self.instances(alive=True)
        return sum(i.kind.vcpu for i in alive if i.kind.family == family and i.spot == (market == "spot"))
