"""A plan's words, the same in every format: Terraform's, where Terraform has them. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from falplan.core.drift import drifted, overridden
from falplan.core.plan import Action, Change, Drift, Plan, Presence, Reason
from falplan.core.plan_json import reason_of
from falplan.core.plural import count

TRUST_NOTE = "the host shows it now; `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it there"
"""What stands beside a host key that nobody has confirmed yet."""

SYMBOLS = {
    Action.CREATE: "+",
    Action.UPDATE: "~",
    Action.REPLACE: "-/+",
    Action.REPLACE_CREATE_FIRST: "+/-",
    Action.DELETE: "-",
    Action.FORGET: ".",
    Action.READ: "<=",
    Action.NOOP: "",
}
WORDS = {
    Action.CREATE: "will be created",
    Action.UPDATE: "will be updated in-place",
    Action.REPLACE: "must be replaced",
    Action.REPLACE_CREATE_FIRST: "must be replaced",
    Action.DELETE: "will be destroyed",
    Action.FORGET: "will no longer be managed, but will not be destroyed",
    Action.READ: "will be read during apply",
    Action.NOOP: "will be imported",
}
REPLACED = {
    Reason.TAINTED: "is tainted, so must be replaced",
    Reason.REQUESTED: "will be replaced, as requested",
}
"""Terraform's words for replacements that no difference causes."""

REASONS = {
    Reason.NOT_IN_SPEC: "it is not in the spec",
    Reason.DEPENDENCY_PENDING: "it depends on a resource with changes pending",
    Reason.CANNOT_UPDATE: "it cannot be changed in place",
}
"""What stands for a reason where the plan says nothing in its own words."""

TITLES = {
    Action.DELETE: "Destroy",
    Action.REPLACE: "Replace",
    Action.REPLACE_CREATE_FIRST: "Replace, create first",
    Action.UPDATE: "Change",
    Action.CREATE: "Add",
    Action.READ: "Read",
    Action.NOOP: "Import and move",
    Action.FORGET: "Forget",
}
FIRST = list(TITLES)
"""The order in which actions are listed: what destroys comes first."""

DRIFTED = {
    Presence.PRESENT: "has changed",
    Presence.ABSENT: "has been deleted",
    Presence.STOPPED: "has stopped",
    Presence.ALTERED: "has been altered",
    Presence.REPLACED: "has been replaced",
    Presence.ROLLED_BACK: "has been rolled back",
    Presence.UNKNOWN: "could not be looked at",
}
DRIFT_TITLE = "Changed outside of falplan since it was applied"
OVERRIDE_TITLE = "Overridden on the control plane since it was applied"
INCOMPLETE = "this plan is not complete: some changes are left out"


def acting(plan: Plan) -> list[Change]:
    """Every change that a person has to read, in the order in which it is told."""
    found = [c for c in plan.changes.values() if c.action is not Action.NOOP or c.previous_address or c.importing]
    return sorted(found, key=lambda c: (_rank(c), c.address))


def _rank(change: Change) -> tuple[int, bool]:
    """Imports before moves, among those that do nothing else."""
    return FIRST.index(change.action), change.action is Action.NOOP and not change.importing


def headline(plan: Plan) -> str:
    """The first line, and the last: what is done, or that nothing is."""
    if not plan.is_empty:
        return summary(plan)
    if plan.unknown:
        return "No changes are known, but not everything could be looked at."
    if plan.left_out:
        return "No changes to what was chosen. The plan is not complete."
    if plan.refresh_only:
        return "No changes. What was applied matches what is there."
    return "No changes. What was applied matches the spec."


def summary(plan: Plan) -> str:
    """Terraform's last line. A replacement counts as one to add and one to destroy."""
    if plan.refresh_only:
        return f"Plan: {count(len(plan.drift), 'difference')} to record in state; nothing else changes."
    return (
        f"Plan: {_counts(plan, 'to import', 'to add', 'to change', 'to destroy', 'to forget', 'to move', 'to read')}."
    )


def summary_done(plan: Plan) -> str:
    """The same once it is done: `1 added, 0 changed, 0 destroyed`."""
    return _counts(plan, "imported", "added", "changed", "destroyed", "forgotten", "moved", "read")


def _counts(plan: Plan, *words: str) -> str:
    replaced = (Action.REPLACE, Action.REPLACE_CREATE_FIRST)
    counts = [
        sum(bool(c.importing) for c in plan.changes.values()),
        plan.count(Action.CREATE, *replaced),
        plan.count(Action.UPDATE),
        plan.count(Action.DELETE, *replaced),
        plan.count(Action.FORGET),
        sum(bool(c.previous_address) for c in plan.changes.values()),
        plan.count(Action.READ),
    ]
    always = range(1, 4)
    return ", ".join(f"{n} {word}" for i, (n, word) in enumerate(zip(counts, words, strict=True)) if n or i in always)


def destroyed(plan: Plan) -> int:
    """How many resources are destroyed, those that are replaced included."""
    return sum(c.action.destroys for c in plan.changes.values())


def symbol(change: Change) -> str:
    """Terraform's symbol; empty for what is only moved or imported."""
    return SYMBOLS[change.action]


def told(change: Change) -> tuple[str, str]:
    """The address that a line begins with, and what happens to it. What only moves is told by the address that it had."""
    if change.action is Action.NOOP and not change.importing:
        return change.previous_address, f"has moved to {change.address}"
    if change.reason and change.action.replaces:
        return change.address, REPLACED.get(change.reason, WORDS[change.action])
    return change.address, WORDS[change.action]


def origins(change: Change) -> Iterator[str]:
    """Where it comes from, beside what is done with it."""
    if change.previous_address and (change.action is not Action.NOOP or change.importing):
        yield f"(moved from {change.previous_address})"
    if change.importing:
        yield f'(imported from "{change.importing}")'


def because(change: Change) -> str:
    """Why, in the plan's own words or else in the reason's."""
    reason = reason_of(change)
    return change.because or (REASONS.get(reason, "") if reason else "")


def drift_by_cause(found: Iterable[Drift]) -> list[tuple[str, list[Drift]]]:
    """How what is there differs from what was applied: drift and overrides apart, each with its title, as far as there are any."""
    drift = list(found)
    both = (DRIFT_TITLE, drifted(drift)), (OVERRIDE_TITLE, overridden(drift))
    return [(title, part) for title, part in both if part]


def drift_words(drift: Drift) -> str:
    """How a resource differs from what was applied."""
    return DRIFTED[drift.presence]


def drift_symbol(drift: Drift) -> str:
    return "-" if drift.presence is Presence.ABSENT else "~"


def drift_notes(drift: Drift) -> list[str]:
    """Since when and by whom, if that is known, and the rule that keeps it from counting."""
    notes = []
    when = [f"since {drift.since}"] if drift.since else []
    who = [f"by {drift.by}"] if drift.by else []
    if when or who:
        notes.append(", ".join([*when, *who]))
    if drift.ignored:
        notes.append(f"ignored, because of {drift.ignored}")
    return notes


def by_reason(addresses: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> its addresses, both sorted."""
    found: dict[str, list[str]] = {}
    for address, reason in sorted(addresses.items(), key=lambda item: (item[1], item[0])):
        found.setdefault(reason, []).append(address)
    return found
