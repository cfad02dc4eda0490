"""What an account holds that has an id: instances, addresses, reserved capacity, and anything else with tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from falplan.sdk.testing.fakeec2.catalog import InstanceType, Zone

Tags = dict[str, str]


@dataclass(slots=True)
class Thing:
    """Anything with an id and tags. `body` is what a description of it says beside them."""

    id: str
    made_at: float
    tags: Tags = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def is_forgotten(self, now: float, kept: float) -> bool:
        """Whether listings have it no more, if they keep what has ended for so many seconds."""
        return False


@dataclass(slots=True)
class Instance(Thing):
    """`runs_at` and `ends_at` are when it runs and when its end begins; `why` is (code, words) of that end. `fails`: it never runs.

    `host_key` is the public key that its console shows once it has booted, as `ssh-ed25519 AAAA…`; empty: one that is made up.
    """

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
    reservation: str = ""  #: id of the reserved capacity that it runs in
    host_key: str = ""

    def state(self, now: float) -> str:
        """`pending`, `running`, `shutting-down` or `terminated`."""
        if self.gone_at is not None and now >= self.gone_at:
            return "terminated"
        if self.ends_at is not None and now >= self.ends_at:
            return "shutting-down"
        return "running" if now >= self.runs_at else "pending"

    def is_forgotten(self, now: float, kept: float) -> bool:
        """A while after it is terminated."""
        return self.gone_at is not None and now >= self.gone_at + kept

    def paid(self, now: float) -> tuple[float, float]:
        """From when until when it is paid for: while it runs."""
        return self.runs_at, now if self.ends_at is None else min(now, self.ends_at)

    @property
    def price(self) -> Decimal:
        """USD an hour."""
        return (self.kind.spot or self.kind.price) if self.spot else self.kind.price


@dataclass(slots=True)
class Address(Thing):
    """A public address, which is paid for until it is released. `instance` is whom it was given to last, by an `association`."""

    ip: str = field(kw_only=True)
    released_at: float | None = None
    instance: str = ""
    association: str = ""

    def is_forgotten(self, now: float, kept: float) -> bool:
        """At once when it is released."""
        return self.released_at is not None

    def paid(self, now: float) -> tuple[float, float]:
        """From when until when it is paid for: whether or not somebody has it."""
        return self.made_at, now if self.released_at is None else self.released_at


@dataclass(slots=True)
class Reservation(Thing):
    """Capacity for `count` instances, which is paid for from the beginning on. `until` is when it expires; None: when it is cancelled."""

    kind: InstanceType = field(kw_only=True)
    zone: Zone = field(kw_only=True)
    count: int = field(kw_only=True)
    until: float | None = None
    cancelled_at: float | None = None
    is_settled: bool = False  #: what nobody used has gone back to its pool

    def state(self, now: float) -> str:
        """`active`, `expired` or `cancelled`."""
        if self.cancelled_at is not None:
            return "cancelled"
        return "expired" if self.until is not None and now >= self.until else "active"

    def is_forgotten(self, now: float, kept: float) -> bool:
        """A while after its end."""
        end = self.until if self.cancelled_at is None else self.cancelled_at
        return end is not None and now >= end + kept

    def paid(self, now: float) -> tuple[float, float]:
        """From when until when it is paid for: whether or not somebody runs in it."""
        ends = [t for t in (now, self.until, self.cancelled_at) if t is not None]
        return self.made_at, min(ends)
