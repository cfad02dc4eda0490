"""One owner a machine: claims with an epoch, the fence that each action carries, and what runners of all projects take there.

The ledger itself lies on the machine and is kept by the agent (`falplan.runner.ledger`); this is the way to ask it through a Shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from falplan.control.tools import Declined, ask
from falplan.core.errors import FalplanError, Locked, Refused
from falplan.core.placement import Reserved
from falplan.core.values import Json, JsonObject
from falplan.runner import rules
from falplan.runner.processes import boot_id, start_of
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import Shell


class ClaimRefused(Locked):
    """Another control plane holds the machine. The detail names it: project, lineage, user, pid, host, data folder."""


class Fenced(Locked):
    """Another control plane took the machine since: this one may not act there any more, for good."""


class RoomTaken(FalplanError):
    """Somebody else's runner has the room that was chosen. Nothing was started; place it again."""


class LedgerUnreadable(Refused):
    """The machine's ledger, or its folder, is torn, foreign, newer, or open to others. Nothing was touched."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, and no later one with its pid."""

    pid: int
    start: str
    boot_id: str

    @staticmethod
    def of(pid: int) -> Process:
        """A living process of this computer."""
        return Process(pid, start_of(pid) or "", boot_id())


@dataclass(frozen=True, slots=True)
class Claim:
    """Who may act on a machine, one for each lineage. `home` is the control plane's data folder, `process` the one that serves from it.

    `epoch` counts the starts of the lineage's control planes. A machine that is not `shared` belongs to one lineage alone.
    `user` is the machine's, `since` in seconds since the epoch, `lives` whether the process does; the machine fills these three in.
    """

    lineage: str
    control_plane: str
    epoch: int
    home: str
    project: str
    host: str
    process: Process
    shared: bool = True
    user: str = ""
    since: float = 0.0
    lives: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A claim that was taken, and the epoch to act with, higher than all before.

    `rolled_back`: a later start than the asker's database knows of acted here, so that the database is an older copy.
    `replaced` is the id of the control plane that is retired now, or empty.
    """

    epoch: int
    rolled_back: bool = False
    replaced: str = ""


@dataclass(frozen=True, slots=True)
class Fence:
    """What every start, stop and kill of a runner carries, and the machine compares with its claim."""

    lineage: str
    control_plane: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a machine's ledger says now: claims by lineage, and reservations whose runner is there."""

    claims: Mapping[str, Claim]
    reservations: tuple[Reserved, ...]


def take_claim(shell: Shell, root: str, claim: Claim, *, replaces: str = "", succeeds: Process | None = None) -> Taken:
    """Take a machine before the first runner of this start. May be repeated by the same process.

    `claim.epoch` is the one that the control plane's database holds. Make `Taken.epoch` durable there, then call `confirm_claim`,
    then act. `replaces` is the id of a control plane that state says is replaced by this one, `succeeds` a process of it that lives and
    has given way.

    Raises:
        ClaimRefused: another one holds the machine, acted since, or replaced this one; the detail names it.
        LedgerUnreadable: the ledger is torn, foreign or newer.
    """
    body = {k: v for k, v in asdict(claim).items() if k not in ("user", "since", "lives")}
    fp("ledger.claim.before_call")
    taken = ask_ledger(
        shell,
        root,
        {"verb": "claim", "claim": body, "replaces": replaces, "succeeds": asdict(succeeds) if succeeds else None},
    )
    fp("ledger.claim.after_call")
    return Taken(**cast("dict[str, Any]", taken))


def confirm_claim(shell: Shell, root: str, fence: Fence) -> None:
    """The epoch that was taken is durable in the control plane's own database. May be repeated.

    Raises:
        Fenced: somebody else took the machine since.
    """
    ask_ledger(shell, root, {"verb": "confirm", "fence": cast("JsonObject", asdict(fence))})


def release_claim(shell: Shell, root: str, *, lineage: str, home: str) -> bool:
    """Remove a lineage's claim and its reservations, at the end of a destroy. False if there was none, or a copy elsewhere holds it."""
    return bool(ask_ledger(shell, root, {"verb": "release", "lineage": lineage, "home": home}))


def read_ledger(shell: Shell, root: str) -> Ledger:
    """The machine's ledger as it counts now.

    Raises:
        LedgerUnreadable: the ledger is torn, foreign or newer.
    """
    body = cast("dict[str, Any]", ask_ledger(shell, root, {"verb": "ledger"}))
    return Ledger({c["lineage"]: _claim(c) for c in body["claims"]}, tuple(reserved(r) for r in body["reservations"]))


def check_fence(ledger: Ledger, fence: Fence) -> None:
    """Whether the fence's owner still has the machine.

    Raises:
        Fenced: somebody else has it, or nobody.
    """
    claim = ledger.claims.get(fence.lineage)
    try:
        rules.check_fence({fence.lineage: asdict(claim)} if claim else {}, asdict(fence))
    except rules.Refusal as exc:
        raise Fenced(_ERRORS["fenced"][0], f"{exc}{_ADVICE['fenced']}") from None


def ask_ledger(shell: Shell, root: str, request: Mapping[str, Json], *, timeout: float = 60.0) -> Json:
    """Ask the agent for something that the machine's ledger may decline.

    Raises:
        ClaimRefused, Fenced, RoomTaken, LedgerUnreadable, Locked: by what it said.
        FalplanError: it can't be done for another reason.
    """
    try:
        return ask(shell, root, request, timeout=timeout)
    except Declined as exc:
        summary, make = _ERRORS[exc.kind]
        raise make(summary, exc.detail + _ADVICE.get(exc.kind, "")) from None


_ERRORS: Mapping[str, tuple[str, type[FalplanError]]] = {
    "claimed": ("This machine belongs to another control plane", ClaimRefused),
    "fenced": ("Another control plane took this machine", Fenced),
    "no_room": ("The room was taken meanwhile", RoomTaken),
    "busy": ("The machine's ledger is in use", Locked),
    "unreadable": ("The machine's ledger can't be used", LedgerUnreadable),
}
_ADVICE = {
    "claimed": " Use that one, or destroy its project first.",
    "fenced": " This one stops; its runners are left as they are.",
}


def reserved(entry: Mapping[str, Any]) -> Reserved:
    """A reservation as the ledger holds it."""
    return Reserved(
        entry["runner_id"], entry["lineage"], entry["project"], entry["vcpu"], entry["ram"], tuple(entry["gpus"])
    )


def _claim(body: Mapping[str, Any]) -> Claim:
    known = {k: body[k] for k in Claim.__dataclass_fields__}
    return Claim(**{**known, "process": Process(**body["process"])})
