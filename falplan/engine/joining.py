"""Tells the control plane of hosts that were made or go, between what their provider does. Every step may run twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from falplan import clock
from falplan.core.operations import OperationKind
from falplan.core.plan import Change
from falplan.core.provided import Found
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.client import AdminClient
from falplan.sdk.failpoints import fp

Say = Callable[[str], None]


class Silence(Protocol):
    """Whether there is a control plane to tell."""

    def nobody_answers(self, state: State, say: Say) -> bool:
        """Whether the control plane is removed with all that it had, and dead already."""
        ...


@dataclass(frozen=True, slots=True)
class Hosts:
    """The control plane's side of a host. What a provider keeps up and no runners are put on is none of its."""

    client: Callable[[State], AdminClient]
    ending: Silence

    def access(self, state: State) -> str:
        """The control plane's public key, which a host has to let in."""
        return str(state.resources[GATEWAY].outputs.get("access", "")) if GATEWAY in state.resources else ""

    def join(self, change: Change, found: Found, state: State, say: Say) -> None:
        """Let runners be put on a host that was made or changed."""
        if not found.joins:
            return
        fp("host.join.before")
        body: JsonObject = {"address": change.address, "region": change.address.split(".")[1], "options": found.joins}
        self.client(state).perform(change.operation, OperationKind.ADD_HOST, body, progress=say)

    def leave(self, change: Change, operation: str, state: State, say: Say) -> None:
        """Have a host drained that is about to go. A control plane that is dead by then drains nothing."""
        if GATEWAY not in state.resources or self.ending.nobody_answers(state, say):
            return
        fp("host.leave.before")
        self.client(state).perform(operation, OperationKind.REMOVE_HOST, {"address": change.address}, progress=say)

    def close_region(self, change: Change, operation: str, state: State, say: Say) -> None:
        """Have nothing bought in a region any more whose resources go, and wait until its machines are gone."""
        if GATEWAY not in state.resources or self.ending.nobody_answers(state, say):
            return
        fp("region.close.before")
        body: JsonObject = {"region": change.address.split(".")[1]}
        self.client(state).perform(operation, OperationKind.CLOSE_REGION, body, progress=say)

    def forget(self, change: Change, state: State, say: Say) -> None:
        """Have the control plane give up a host that state has forgotten, whether or not it answers."""
        if GATEWAY not in state.resources or self.ending.nobody_answers(state, say):
            return
        fp("host.forget.before")
        self.client(state).perform(
            clock.new_uuid(), OperationKind.FORGET_HOST, {"address": change.address}, progress=say
        )
