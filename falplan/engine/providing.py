"""Makes, changes and removes what providers own. Every operation may run twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from falplan import registry
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.plan import Action, Change
from falplan.core.provided import Found, differing, identity_of, outputs_of
from falplan.core.resources import ResourceType
from falplan.core.state import Recorded, State
from falplan.core.values import JsonObject
from falplan.engine.client import OperationFailed
from falplan.engine.emptying import end_all
from falplan.engine.joining import Hosts
from falplan.engine.provided import Place, Provided, place_of
from falplan.sdk.failpoints import fp
from falplan.sdk.launches import Selling
from falplan.sdk.resources import Failed, HostRegion, Mark, Resources

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ProvidedHandler:
    """One type of resource that providers own. `before` is what was recorded when the plan was made, by address."""

    provided: Provided
    before: Mapping[str, Recorded]
    hosts: Hosts

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        """Bring it to what the spec's region wants, and remove what an interrupted operation left beside it.

        Raises:
            OperationFailed: it ended without success, or is not as it was asked for.
        """
        place, mark = self.provided.places[change.address.split(".")[1]], self._mark(change, state)
        known = self.before.get(change.address)
        if change.action is Action.REPLACE and isinstance(place.resources, HostRegion):
            _check_answers(place.resources, change.address)
            self.hosts.leave(change, change.operation[::-1], state, say)
        with _final():
            found = self._bring(place.resources, change, mark, identity_of(known) if known else "", say)
        self.hosts.join(change, found, state, say)
        with _final():
            for identity in change.leftovers:
                if identity != found.identity:
                    self._remove_anywhere(change, place.resources, mark, identity, say)
        _check(change, place, found)
        return outputs_of(found)

    def _bring(self, resources: Resources, change: Change, mark: Mark, identity: str, say: Say) -> Found:
        wanted = self.provided.declared(change.address)
        match change.action:
            case Action.READ:
                return resources.read(wanted, say=say)
            case Action.UPDATE if identity:
                return resources.update(wanted, mark, identity, say=say)
            case Action.REPLACE:
                _remove(self._there(change, resources), mark, identity, say)
                fp("provided.replace.before_create")
                return resources.create(wanted, mark, besides="", say=say)
            case Action.REPLACE_CREATE_FIRST:
                found = resources.create(wanted, mark, besides=identity, say=say)
                fp("provided.replace.before_delete")
                if identity:
                    _remove(self._there(change, resources), mark, identity, say)
                return found
            case _:
                return resources.create(wanted, mark, besides="", say=say)

    def _remove_anywhere(self, change: Change, here: Resources, mark: Mark, identity: str, say: Say) -> None:
        """Wherever it was found, if its home has changed: what is not there is no error, and no identity is used twice."""
        _remove(here, mark, identity, say)
        there = self._there(change, here)
        if there is not here:
            _remove(there, mark, identity, say)

    def _there(self, change: Change, here: Resources) -> Resources:
        """Where the one that goes is: not where the new one comes, if its home has changed."""
        known = self.before.get(change.address)
        if known is None or known.inputs.get("home") == (change.after or {}).get("home"):
            return here
        return _resources(known)

    def _mark(self, change: Change, state: State) -> Mark:
        return Mark(state.lineage, change.address, change.operation, self.hosts.access(state))

    def forget(self, change: Change, state: State, say: Say) -> None:
        """Have the control plane give up a host that falplan manages no more."""
        if change.type is ResourceType.HOST:
            self.hosts.forget(change, state, say)

    def delete(self, change: Change, state: State, say: Say) -> None:
        """Remove it, and what an interrupted operation left beside it."""
        known, mark = state.resources[change.address], self._mark(change, state)
        if known.inputs.get("managed") is False:
            raise OperationFailed("It is only looked at", f"{change.address} exists without falplan.", ExitCode.FAILED)
        there, identity = _resources(known), identity_of(known)
        if isinstance(there, HostRegion):
            self.hosts.leave(change, change.operation, state, say)
        if isinstance(there, Selling):
            self.hosts.close_region(change, change.operation, state, say)
            end_all(registry.seller_at(there), state.lineage, say)
        with _final():
            _remove(there, mark, identity, say)  # without an identity, all that was ever made under this address
            for leftover in change.leftovers:
                _remove(there, mark, leftover, say)


def _remove(resources: Resources, mark: Mark, identity: str, say: Say) -> None:
    """Believe that it is gone when it is, not when nothing was raised."""
    resources.delete(mark, identity, say=say)
    if resources.remains(mark, identity):
        name = identity or "something of it"
        detail = f"{name} still exists, though the provider reported that it was removed. Run `falplan apply` again."
        raise OperationFailed("It is still there", detail, ExitCode.FAILED)


def _check_answers(hosts: HostRegion, address: str) -> None:
    """Keep what a host has until it is known that it lets falplan in by the way that the spec tells now."""
    name = address.split(".", 2)[2]
    for machine in hosts.machines_of([name]):
        if machine.unreachable:
            detail = f"{machine.unreachable}\nNothing was changed there: it goes on as it was."
            raise OperationFailed("The host can't be replaced", detail, ExitCode.FAILED)


def _resources(recorded: Recorded) -> Resources:
    place = place_of(recorded)
    if isinstance(place, FalplanError):
        raise OperationFailed(place.summary, place.detail, ExitCode.FAILED) from place
    return place.resources


@contextmanager
def _final() -> Iterator[None]:
    """What a provider calls certain is recorded as failed; after every other error the operation is asked for again."""
    try:
        yield
    except Failed as exc:
        raise OperationFailed(exc.summary, exc.detail, ExitCode.FAILED) from exc


def _check(change: Change, place: Place, found: Found) -> None:
    """Believe what was read back, not that nothing was raised."""
    wanted = {n: v for n, v in (change.after or {}).items() if n in found.inputs}
    wrong = differing(wanted, found)
    if wrong:
        values = ", ".join(wrong)
        detail = f"{place.provider} was asked for other values of {values} than {found.identity} has now. Run `falplan apply` again."
        raise OperationFailed("It is not as it was asked for", detail, ExitCode.FAILED)
