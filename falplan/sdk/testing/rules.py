"""Rules of faults in a fake world: which call they are for, and what happens to it. Knows nothing of what a call does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from falplan.core.values import Json, JsonObject


class Moment(StrEnum):
    """Where in a call a fault strikes."""

    BEFORE = "before"  #: nothing was done
    BETWEEN = "between"  #: half of it was done: something is made, and not up yet
    AFTER = "after"  #: all was done, and the answer is still to come


class Fault(StrEnum):
    """What may go wrong."""

    FAIL = "fail"  #: it ends without success, for certain
    LOSE = "lose"  #: the answer is lost, so that nobody knows
    UNREACHABLE = "unreachable"  #: the region does not answer
    DENY = "deny"  #: the credentials are refused
    HANG = "hang"  #: waits while the file `until` is there, `seconds` at most; then the answer is lost if it still is
    DIE = "die"  #: the process is killed
    SLOW = "slow"  #: waits `seconds`, and goes on
    LAG = "lag"  #: the next `looks` looks show what was before this change
    DIFFER = "differ"  #: it ends with success, and has other tags than it was asked for; what was to go is there


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault for calls of `verb` (`*` for every one) whose address matches `address`, from the `nth` on, `times` times (0: for ever)."""

    fault: Fault
    moment: Moment = Moment.BEFORE
    verb: str = "*"
    address: str = "*"
    nth: int = 1
    times: int = 1
    until: str = ""
    seconds: float = 0.0
    looks: int = 1

    def is_for(self, verb: str, address: str, moment: Moment) -> bool:
        return self.moment is moment and self.verb in ("*", verb) and fnmatchcase(address, self.address)

    def strikes(self, count: int) -> bool:
        """Whether the call that met it as the `count`-th is struck."""
        return count >= self.nth and (not self.times or count < self.nth + self.times)


def rules_to_json(rules: Iterable[Rule]) -> list[Json]:
    """For `rules_from_json`; what `faults.json` of a world on disk holds."""
    return [{name: getattr(rule, name) for name in Rule.__slots__} for rule in rules]


def rules_from_json(body: Iterable[JsonObject]) -> list[Rule]:
    """Rules as written by `rules_to_json`, or by hand with defaults left out.

    Raises:
        ValueError, TypeError: one has no meaning.
    """
    return [_rule(dict(rule)) for rule in body]


def _rule(body: JsonObject) -> Rule:
    fault, moment = Fault(str(body.pop("fault"))), Moment(str(body.pop("moment", Moment.BEFORE)))
    return Rule(fault, moment, **body)  # type: ignore[arg-type]  # JSON written by a test; a wrong name is a TypeError
