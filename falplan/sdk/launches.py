"""Machines that are bought, and the attempts to buy them as they are written down: before each call that may make one, and after it.

Knows no cloud, and where attempts are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, runtime_checkable

from falplan.core.errors import FalplanError
from falplan.core.offers import Offered
from falplan.core.spec.resolved import MachineType
from falplan.core.spending import spelt
from falplan.core.tenure import Stage
from falplan.core.values import JsonObject

__all__ = [
    "HEARD",
    "NOTICE",
    "Attempt",
    "Bought",
    "Clock",
    "Elastic",
    "Entry",
    "Intent",
    "Journal",
    "NoCapacity",
    "Offered",
    "Paused",
    "Pool",
    "Selling",
    "Stage",
    "Terms",
    "Verdict",
    "bought_to_json",
]


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` is in seconds since 1970; `pause` waits so many seconds; `spread` draws a number of seconds between two."""

    now: Callable[[], float]
    pause: Callable[[float], None]
    spread: Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class Intent:
    """A launch that is already recorded. `operation` is its id: everything made carries it, and a repetition finds it.

    `owner` is the lineage and `control_plane` the id that the machine belongs to; `access` is the public SSH key of that, to be let in.
    """

    operation: str
    owner: str
    control_plane: str
    access: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a region may have: `most` machines, for `budget` USD an hour together; None: for as much as the spec's `budget_per_hour` of the
    region says. One without a runner is given back after `idle` seconds.

    `unpriced` says what makes a price known that nobody knows, `otherwise` what may help where nothing is sold that would do. A machine
    that has heard nothing of its control plane for `ends_after` seconds ends itself; None: it does not.
    """

    most: int
    budget: Decimal | None = None
    idle: float = 300.0
    unpriced: str = ""
    otherwise: str = ""
    ends_after: float | None = None


class Verdict(StrEnum):
    """What became of an attempt to launch a machine."""

    UNKNOWN = "unknown"  #: it may have been made: the same request is sent again before anything else is tried
    MADE = "made"
    ENDED = "ended"  #: it was made, and has ended since
    NOTHING = "nothing"  #: it was never made, which was found out later
    CAPACITY = "capacity"  #: this pool has none now
    QUOTA = "quota"  #: the account may have no more of its family there
    NOT_OFFERED = "not-offered"  #: this pool never has any
    PERMISSION = "permission"  #: these credentials may not, or are refused
    PARAMETER = "parameter"  #: the request has no meaning there, and would have none a second time


@dataclass(frozen=True, slots=True, order=True)
class Pool:
    """What capacity is asked of: a kind of machine in one zone, in one market (`on-demand`, `spot`)."""

    offer: str
    zone: str
    market: str

    def __str__(self) -> str:
        return f"{self.zone} {self.offer} {self.market}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that may make a machine. `number` counts from 1 within its launch, `at` is when it was written down, before it was sent.

    `request` is all that is sent: it is sent again as it stands. `told_at` is when its verdict came, `identity` the machine's own name
    there once it is made, `because` what was answered otherwise. Times in seconds since 1970.
    """

    launch: str
    number: int
    pool: Pool
    request: JsonObject
    at: float
    verdict: Verdict = Verdict.UNKNOWN
    identity: str = ""
    because: str = ""
    told_at: float = 0.0


class Journal(Protocol):
    """Where attempts of a region are written down. What `write` was given is durable when it returns."""

    def attempts(self, launch: str) -> Sequence[Attempt]:
        """Those of one launch, in the order of their numbers, each as it was written last."""
        ...

    def since(self, seconds: float) -> Sequence[Attempt]:
        """Those of every launch in the region whose verdict came at that time or later."""
        ...

    def write(self, attempt: Attempt) -> None:
        """Keep an attempt, in place of what was known of the one with its launch and number."""
        ...


@dataclass(frozen=True, slots=True)
class Bought:
    """A machine that was bought. `launch` is the operation that made it; `control_plane` whose it is; `price` in USD an hour.

    `address` is where it is reached from its own network, `public` from anywhere, both empty if it is not. `because` says why it ends
    or has ended. `out_of_capacity`: it ended without having run, as there was no room for it. Times in seconds since 1970.
    """

    identity: str
    launch: str
    control_plane: str
    pool: Pool
    stage: Stage
    made_at: float
    price: Decimal | None = None
    address: str = ""
    public: str = ""
    because: str = ""
    out_of_capacity: bool = False


def bought_to_json(region: str, one: Bought) -> JsonObject:
    """A machine as its provider shows it."""
    return {
        "region": region,
        "identity": one.identity,
        "kind": one.pool.offer,
        "zone": one.pool.zone,
        "market": one.pool.market,
        "control_plane": one.control_plane,
        "stage": one.stage.value,
        "price": "" if one.price is None else spelt(one.price),
        "made_at": one.made_at,
    }


@dataclass(frozen=True, slots=True)
class Paused:
    """A pool that is not asked now. `because` says why, when it was last asked, and the way out if there is one; `until` in seconds since
    1970."""

    pool: Pool
    verdict: Verdict
    because: str
    until: float


HEARD = "heard"
"""File in a bought machine's folder that its control plane touches every minute: what is paid for ends itself once nobody does."""


NOTICE = "notice"
"""File in a bought machine's folder in which it says that it is taken back: JSON with the `time` of that, as RFC 3339."""


@dataclass(frozen=True, slots=True)
class Entry:
    """How a control plane gets onto a machine: the provider that leads there, and the options of one host, as a region of it has them.

    Neither has a secret in it: whoever enters brings a key of its own.
    """

    provider: str
    options: JsonObject


class NoCapacity(FalplanError):
    """No pool that may be asked has a machine now. Trying again later may help: from `again_at` on, in seconds since 1970."""

    def __init__(self, summary: str, detail: str, *, again_at: float) -> None:
        super().__init__(summary, detail)
        self.again_at = again_at


class Elastic(Protocol):
    """Who sells the machines of a region. Its verbs do one step and return: whoever calls them looks again.

    Each may raise `falplan.sdk.resources.Denied` (the credentials are refused: nothing else is tried with them) and
    `falplan.sdk.shell.Unreachable` (what became of it is unknown).
    """

    def terms(self) -> Terms:
        """What the region's options allow. Asks nobody."""
        ...

    def offers(self, types: Iterable[MachineType]) -> Sequence[Offered]:
        """The kinds of machines that runners on these machine types could be put on, with the room and the price of each.

        Those that turn out to be too small are no harm: whoever chooses tells them apart.
        """
        ...

    def buy(self, kinds: Sequence[str], intent: Intent, journal: Journal) -> Bought:
        """Buy one machine of these kinds, the first that can be had; or tell of the one that this intent bought before.

        The same intent buys one machine, however often and with whatever kinds it is asked for. Each attempt is written down before
        it is made. What comes back may not be up yet. Without `kinds`, nothing new is asked for: it tells of the one that was bought
        before, as soon as it is known whether there is one.

        Raises:
            NoCapacity: none of the pools has one now, each with its reason.
            Failed: the machine that was bought has ended, or the request has no meaning; asking again with this intent does not help.
        """
        ...

    def paused(self, journal: Journal) -> Sequence[Paused]:
        """The pools that were asked and are left alone now, by name. Asks nobody that it need not ask."""
        ...

    def look(self, owner: str) -> Sequence[Bought]:
        """All machines that carry the owner's mark, those that ended a short while ago included, each with what it costs if that is known.

        One that was bought just now may be missing from it. That one is missing does not mean that it is gone.
        """
        ...

    def entry(self, machine: Bought) -> Entry | None:
        """How to get onto a machine that is up; None as long as that can't be told, or nobody would be sure to be on the right one."""
        ...

    def end(self, owner: str, identities: Sequence[str]) -> None:
        """Begin to end machines of this owner; those of others are left alone. What has ended is no error.

        `look` tells when they are gone.
        """
        ...


@runtime_checkable
class Selling(Protocol):
    """A provider whose machines are bought."""

    def seller(self, clock: Clock) -> Elastic:
        """Who sells the region's machines. Asks nobody."""
        ...
