"""How a plan's operations ended, or did not. Knows nothing of how they ran."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from falplan.core.plan import Action, Plan


class Fate(StrEnum):
    """What became of an operation of a plan."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  #: something that it waits for failed
    UNDER_WAY = "under_way"  #: begun, and left to itself: the next apply finds out what became of it
    NOT_BEGUN = "not_begun"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One operation's end. `because`: why it failed. `blamed`: the failed ones that a skipped one waited for, sorted."""

    address: str
    action: Action
    fate: Fate
    because: str = ""
    blamed: tuple[str, ...] = ()


def outcomes(
    plan: Plan, done: Collection[str], failed: Mapping[str, str], running: Collection[str] = ()
) -> tuple[Outcome, ...]:
    """Every operation of the plan by address, sorted. `failed` is address -> why; `running` were begun and not seen to end."""
    blame = blamed(plan.after, failed)
    found = []
    for address in sorted(plan.after):
        action = plan.changes[address].action
        if address in failed:
            found.append(Outcome(address, action, Fate.FAILED, failed[address]))
        elif address in done:
            found.append(Outcome(address, action, Fate.DONE))
        elif address in running:
            found.append(Outcome(address, action, Fate.UNDER_WAY))
        elif address in blame:
            found.append(Outcome(address, action, Fate.SKIPPED, blamed=blame[address]))
        else:
            found.append(Outcome(address, action, Fate.NOT_BEGUN))
    return tuple(found)


def blamed(after: Mapping[str, Iterable[str]], failed: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Each operation downstream of a failed one, and all the failed ones that it waits for, however far away."""
    following: dict[str, list[str]] = {name: [] for name in after}
    for name, before in after.items():
        for other in before:
            if other in following:
                following[other].append(name)
    found: dict[str, list[str]] = {}
    for name in sorted(failed):
        seen, stack = {name}, [name]
        while stack:
            for other in following.get(stack.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        for other in seen - set(failed):
            found.setdefault(other, []).append(name)
    return {name: tuple(causes) for name, causes in sorted(found.items())}


def tally(ended: Iterable[Outcome]) -> dict[Fate, int]:
    """How many operations had each fate; every fate is there."""
    counts = dict.fromkeys(Fate, 0)
    for outcome in ended:
        counts[outcome.fate] += 1
    return counts
