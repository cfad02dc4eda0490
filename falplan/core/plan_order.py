"""Which operation of a plan waits for which. Looks at nothing but the changes and what was recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from falplan.core.plan import Action, Change
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.state import State


def operation_order(changes: Mapping[str, Change], state: State) -> dict[str, tuple[str, ...]]:
    """Each operation, and those that must be done before it.

    Creates and updates come after what they depend on; a delete comes after everything that depended on it, whether that
    is deleted, too, or only stops depending on it.
    """
    acting = {a for a, c in changes.items() if c.action.acts}
    after: dict[str, set[str]] = {a: set() for a in acting}
    needed = _Needed(changes, acting)
    for address in acting:
        if changes[address].action is not Action.DELETE:
            after[address] |= needed.by(address)
        elif GATEWAY in acting and changes[GATEWAY].action is not Action.DELETE:
            after[address].add(GATEWAY)  # whatever is removed is removed by a running control plane
        recorded = state.resources.get(address)
        for dependency in recorded.dependencies if recorded else ():
            if dependency in acting and changes[dependency].action is Action.DELETE:
                after[dependency].add(address)
    # Removing a build tidies up what no app uses: it waits until every app uses what it is going to use.
    deployed = {a for a in acting if changes[a].type is ResourceType.APP and changes[a].action is not Action.DELETE}
    for address in acting:
        if changes[address].type is ResourceType.BUILD and changes[address].action is Action.DELETE:
            after[address] |= deployed
    for address, earlier in _in_turn(changes).items():
        after[address].add(earlier)
    return {a: tuple(sorted(after[a])) for a in sorted(after)}


AT_ONCE = 4
"""A quarter of a region's hosts, and at least one, is replaced at a time: the others take the runners meanwhile."""


def _in_turn(changes: Mapping[str, Change]) -> dict[str, str]:
    """Each host that is replaced after others of its region, and which of them it waits for."""
    regions: dict[str, list[str]] = {}
    for address, change in sorted(changes.items()):
        # The control plane's own host comes before all else.
        if change.type is ResourceType.HOST and change.action.replaces and GATEWAY in change.dependencies:
            regions.setdefault(address.split(".")[1], []).append(address)
    earlier: dict[str, str] = {}
    for hosts in regions.values():
        width = max(1, len(hosts) // AT_ONCE)
        earlier |= dict(zip(hosts[width:], hosts, strict=False))
    return earlier


class _Needed:
    """What an operation waits for: the nearest acting ones that it depends on, also by way of resources that stay as they are."""

    def __init__(self, changes: Mapping[str, Change], acting: Collection[str]) -> None:
        self._changes, self._acting = changes, acting
        self._through: dict[str, set[str]] = {}

    def by(self, address: str) -> set[str]:
        self._look_through(address)
        return self._nearest(address)

    def _of(self, address: str) -> list[str]:
        found = (d for d in self._changes[address].dependencies if d in self._changes)
        return [d for d in found if self._changes[d].action is not Action.DELETE]

    def _nearest(self, address: str) -> set[str]:
        found: set[str] = set()
        for dependency in self._of(address):
            found |= {dependency} if dependency in self._acting else self._through[dependency]
        return found

    def _look_through(self, address: str) -> None:
        """Fill `_through` for every resting resource that lies on the way; without recursion, for chains may be long."""
        stack, entered = [address], {address}
        while stack:
            resting = [d for d in self._of(stack[-1]) if d not in self._acting and d not in self._through]
            ahead = [d for d in resting if d not in entered]
            if ahead:
                entered.update(ahead)
                stack += ahead
                continue
            for cyclic in resting:  # never in a graph that was checked
                self._through[cyclic] = set()
            done = stack.pop()
            if done not in self._acting and done not in self._through:
                self._through[done] = self._nearest(done)
