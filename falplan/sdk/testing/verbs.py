"""A call of the fake provider as its world sees it: begun, struck by faults, ended, and written to the history."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.core.values import JsonObject
from falplan.sdk.resources import Denied, Failed
from falplan.sdk.shell import Unreachable
from falplan.sdk.testing.rules import Fault, Moment, Rule
from falplan.sdk.testing.things import Call, Lag, Thing, World


@dataclass(slots=True)
class Verb:
    """A call under way, as the world and its history see it."""

    world: World
    call: Call
    looks: int = 0
    differs: bool = False

    @property
    def changes(self) -> bool:
        return self.call.verb not in ("look", "read")

    def begin(self) -> None:
        self._note("begin")
        for other in self.world.enter(self.call) if self.changes else ():
            if other.process != self.call.process:
                self.violation(
                    f"{self.call.process} changes the world while {other.process} does ({other.verb} {other.address})"
                )
            elif (other.region, other.address) == (self.call.region, self.call.address):
                self.violation(f"two calls for {other.address} at once: {other.verb}, {self.call.verb}")

    def end(self, how: str) -> None:
        with self.world.locked():
            self._note("end", how=how)
            if self.changes:
                self.world.leave(self.call)

    def effect(self, what: str, identity: str) -> None:
        self._note(what, identity=identity)

    def violation(self, what: str) -> None:
        self._note("violation", what=what)

    def lagging(self, identity: str, before: Thing | None) -> None:
        """Have looks show what was before, if a rule said so when this call began."""
        if self.looks:
            self.world.keep_lags([*self.world.lags(), Lag(self.call.region, identity, before, self.looks)])

    def reach(self, moment: Moment) -> None:
        """Let strike whatever is due here."""
        with self.world.locked():
            due = [rule for number, rule in enumerate(self.world.rules()) if self._is_due(number, rule, moment)]
            for rule in due:
                self._note("fault", what=f"{rule.fault.value} {moment.value}")
        for rule in due:
            self._strike(rule)

    def _is_due(self, number: int, rule: Rule, moment: Moment) -> bool:
        matches = rule.is_for(self.call.verb, self.call.address, moment)
        return matches and rule.strikes(self.world.passed(number))

    def _strike(self, rule: Rule) -> None:
        where = f"{self.call.verb} {self.call.address}"
        if rule.fault is Fault.LAG:
            self.looks = rule.looks
        elif rule.fault is Fault.DIFFER:
            self.differs = True
        elif rule.fault is Fault.SLOW:
            time.sleep(rule.seconds)
        elif rule.fault is Fault.DIE:
            self.world.die()
        elif rule.fault is Fault.HANG:
            if not _released(rule):
                raise FalplanError("No answer in time", f"{where}: what became of it is unknown.")
        else:
            raise _ERRORS[rule.fault](where)

    def _note(self, event: str, **more: str) -> None:
        c = self.call
        line: JsonObject = {"event": event, "call": c.number, "process": c.process, "verb": c.verb, "region": c.region}
        self.world.note({**line, "address": c.address, "operation": c.operation, **more})


_ERRORS: Mapping[Fault, Callable[[str], FalplanError]] = {
    Fault.FAIL: lambda where: Failed("It did not work", f"{where}: a fault was asked for."),
    Fault.LOSE: lambda where: FalplanError("Connection lost", f"{where}: what became of it is unknown."),
    Fault.UNREACHABLE: lambda where: Unreachable("The region does not answer", f"{where}: nothing is known."),
    Fault.DENY: lambda where: Denied("The credentials have expired", f"{where}: renew them, then apply again."),
}
_POLL = 0.01
"""Seconds between two looks whether a call that hangs may go on."""


def _released(rule: Rule) -> bool:
    """Wait for the file to go away. False once the time is over; at once where there is no file to wait for."""
    give_up = time.monotonic() + rule.seconds
    while not rule.until or Path(rule.until).exists():
        if not rule.until or time.monotonic() > give_up:
            return False
        time.sleep(_POLL)
    return True
