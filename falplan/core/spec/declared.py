"""What a spec says of state and of drift, beside its resources."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from falplan.core.errors import Position


@dataclass(frozen=True, slots=True)
class Move:
    """What state knows as `source` is `target` from now on."""

    source: str
    target: str
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """What is no longer in the spec leaves state. It is destroyed, or goes on without falplan."""

    address: str
    destroy: bool = False
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Import:
    """Something that exists is to be managed as `address`. `identity` is what the outside calls it."""

    address: str
    identity: str
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Refactors:
    """What the spec says of resources that state knows otherwise, in the order of the spec."""

    moved: tuple[Move, ...] = ()
    removed: tuple[Removal, ...] = ()
    imported: tuple[Import, ...] = ()


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """Drift that is known and shall raise no alarm; what apply does is not changed by it.

    `address` and `attribute` are patterns in which `*` stands for anything; an empty attribute means every one, and that the
    resource is gone or stopped, too. `until` is the last day on which it holds, as 2026-12-31; empty: for good. `because` is for people.
    """

    address: str
    attribute: str = ""
    until: str = ""
    because: str = ""

    def holds(self, address: str, today: str) -> bool:
        return fnmatchcase(address, self.address) and (not self.until or today <= self.until)

    def __str__(self) -> str:
        return f"{self.address} {self.attribute}".rstrip() + (f" ({self.because})" if self.because else "")
