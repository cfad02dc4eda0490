"""What follows for a bought machine from what its provider shows of it, and whose the machines are that nobody recorded. Decides alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from falplan.core.fleet import Life

GRACE = 600.0
"""Seconds for which a provider may not show a machine that is there. What it does not show for longer has ended and is forgotten there."""
BOOT = 900.0
"""Seconds within which a machine has to take runners."""


class Stage(StrEnum):
    """Where a machine is, as its provider shows it. It costs money while it is STARTING, UP, or ENDING."""

    STARTING = "starting"
    UP = "up"
    ENDING = "ending"
    GONE = "gone"


class Verb(StrEnum):
    """What is done with a machine now."""

    WAIT = "wait"
    ASK = "ask"  #: ask the provider for it
    JOIN = "join"  #: make it one that takes runners
    LOST = "lost"  #: it has ended, or is about to, by itself: what runs there is gone
    LEAVE = "leave"  #: give it back
    END = "end"  #: tell the provider to end it
    FORGET = "forget"  #: its end was seen


@dataclass(frozen=True, slots=True)
class Tenant:
    """A recorded machine. `since` is when it came into this state; `identity` its provider's name of it, empty before it is known."""

    machine_id: str
    life: Life
    since: float
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A machine as its provider shows it. Its marks say for which recorded machine it was made, `launch`, and whose it is."""

    identity: str
    launch: str
    control_plane: str
    stage: Stage
    because: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and why."""

    verb: Verb
    because: str = ""


@dataclass(frozen=True, slots=True)
class Strays:
    """Machines with the project's mark that are not recorded: to be `adopted`, to be `ended` (and why), and `foreign` ones."""

    adopted: tuple[Shown, ...] = ()
    ended: tuple[tuple[Shown, str], ...] = ()
    foreign: tuple[Shown, ...] = ()


def follow(tenant: Tenant, shown: Shown | None, *, now: float) -> Step:
    """What is done with a recorded machine. `shown` None: the provider answered, and does not show it."""
    if tenant.life is Life.WANTED:
        return Step(Verb.ASK)
    if shown is None:
        return _unseen(tenant, now - tenant.since)
    if tenant.life is Life.LEAVING:
        return _leaving(shown)
    if shown.stage in (Stage.ENDING, Stage.GONE):
        return Step(Verb.LOST, shown.because or "it was ended by somebody else")
    if tenant.life is Life.STARTING and now - tenant.since > BOOT:
        return Step(Verb.LEAVE, f"it took no runners within {BOOT:.0f} s")
    if tenant.life is Life.STARTING and shown.stage is Stage.UP:
        return Step(Verb.JOIN)
    return Step(Verb.WAIT)


def _unseen(tenant: Tenant, seconds: float) -> Step:
    if tenant.life is Life.LEAVING:
        # Telling an end twice costs nothing; forgetting a machine that is only not shown yet costs as much as it does. What is not known
        # by name may have been bought all the same: whoever ends it finds that out.
        return (
            Step(Verb.FORGET, "its provider shows it no more")
            if seconds > GRACE and tenant.identity
            else Step(Verb.END)
        )
    if seconds > GRACE:
        return Step(Verb.LOST, "its provider does not show it any more")
    return Step(Verb.WAIT)


def _leaving(shown: Shown) -> Step:
    if shown.stage is Stage.GONE:
        return Step(Verb.FORGET, shown.because)
    return Step(Verb.WAIT if shown.stage is Stage.ENDING else Verb.END)


def strays(
    shown: Iterable[Shown], tenants: Mapping[str, Tenant], *, control_plane: str, retired: Collection[str] = ()
) -> Strays:
    """Machines that cost money and that are not the recorded ones.

    `tenants` are all recorded machines by their ids, those that are GONE included. One whose record was lost with an older database may
    have runners: it is taken over, and given back like any other if it has none. Another control plane's are its own; nobody here knows
    whether it needs them. Those of one that is `retired` are ended: it let nobody in but itself.
    """
    known = {t.identity for t in tenants.values() if t.identity}
    adopted, ended, foreign = [], [], []
    for one in shown:
        if one.stage in (Stage.ENDING, Stage.GONE) or one.identity in known:
            continue
        tenant = tenants.get(one.launch)
        if one.control_plane in retired:
            ended.append((one, f"{one.control_plane}, whose it was, is no more"))
        elif one.control_plane != control_plane:
            foreign.append(one)
        elif tenant is None:
            adopted.append(one)
        elif tenant.life is Life.GONE:
            ended.append((one, f"{one.launch} was given up"))
        elif tenant.identity:
            ended.append((one, f"{one.launch} is {tenant.identity}"))
    return Strays(tuple(adopted), tuple(ended), tuple(foreign))
