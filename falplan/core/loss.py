"""Whether so much seems to be gone at once that the answer is to be doubted rather than acted upon. Compares values; asks nobody."""

from __future__ import annotations

from collections.abc import Mapping

from falplan.core.findings import Finding, Source
from falplan.core.plan import Presence, Seen
from falplan.core.resources import GATEWAY, ResourceType, type_of
from falplan.core.state import Recorded, State, Status

FEW = 3
"""So many may be gone without a question."""
PERCENT = 30
"""And this part of what was looked at."""
DOUBT = "so much at once may be a wrong answer, of another account, region or database, or for expired credentials."
SHOWN = 10
"""Addresses that are named."""
KEPT_BY_GATEWAY = frozenset({ResourceType.APP, ResourceType.BUILD, ResourceType.SECRET})
"""Types that are gone with the control plane: when that is seen to be gone, or another one, they are one loss with it."""


def vanished(state: State, seen: Mapping[str, Seen], *, accepted: bool = False) -> Finding | None:
    """What is held against going on, if more than max(FEW, PERCENT) of what was looked at is gone; None if not.

    Expired credentials, another account or region, and an empty answer look like that, too. What an interrupted or failed operation
    may never have made does not count, nor what could not be looked at. `accepted`: somebody said that it is really gone.
    """
    looked, gone = _count(state, seen)
    if not is_much(len(gone), looked):
        return None
    message = f"{len(gone)} of {looked} resources that were applied are said to be gone"
    return Finding(Source.LOSS, "loss", message, refuses=not accepted, detail=(*_named(gone), *_way_out(accepted)))


def is_much(gone: int, looked: int) -> bool:
    """Whether so many of so many are more than may be gone without a question."""
    return gone > FEW and gone * 100 > PERCENT * looked


def _count(state: State, seen: Mapping[str, Seen]) -> tuple[int, dict[str, str]]:
    """How many were looked at, and address -> reason of each that is gone by itself."""
    explained = _gateway_explains(state, seen)
    looked, gone = 0, {}
    for address, recorded in sorted(state.resources.items()):
        look = seen.get(address)
        if look is None or look.presence is Presence.UNKNOWN or (explained and type_of(address) in KEPT_BY_GATEWAY):
            continue
        looked += 1
        if look.presence is Presence.ABSENT and _was_there(recorded):
            gone[address] = look.because
    return looked, gone


def _gateway_explains(state: State, seen: Mapping[str, Seen]) -> bool:
    """Whether the gateway was seen not to be the one that was applied, or not to be as it was then."""
    look = seen.get(GATEWAY)
    return GATEWAY in state.resources and look is not None and look.presence is not Presence.PRESENT


def _was_there(recorded: Recorded) -> bool:
    """A creation that failed, or was interrupted, may have made nothing."""
    return recorded.intent is None and recorded.status is not Status.TAINTED


def _named(gone: Mapping[str, str]) -> list[str]:
    lines = [f"{address}: {because}" for address, because in list(gone.items())[:SHOWN]]
    return [*lines, *([f"and {len(gone) - SHOWN} more"] if len(gone) > SHOWN else [])]


def _way_out(accepted: bool) -> list[str]:
    if accepted:
        return ["It was accepted with --accept-loss."]
    return [DOUBT.capitalize(), "If they are really gone, add --accept-loss."]
