"""What a fake world holds, and what it has to offer to the provider that makes things in it. Knows no plan and no state."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, cast

from falplan.core.values import JsonObject
from falplan.sdk.resources import Found, ResourceKind, Standing
from falplan.sdk.testing.rules import Rule

WRITE_ONLY = frozenset({"user_data"})
"""Inputs that can't be read back."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A host or a network that is there. `owner`, `address` and `operation` are its mark, empty for what nobody marked."""

    identity: str
    region: str
    kind: ResourceKind
    name: str
    inputs: JsonObject
    outputs: JsonObject = field(default_factory=dict)
    owner: str = ""
    address: str = ""
    operation: str = ""
    standing: Standing = Standing.UP
    because: str = ""
    version: int = 1

    def found(self) -> Found:
        """As a provider shows it."""
        inputs = {k: v for k, v in self.inputs.items() if k not in WRITE_ONLY}
        version = str(self.version)
        return Found(
            self.address,
            self.identity,
            inputs,
            self.outputs,
            version,
            self.operation,
            self.standing,
            self.because,
        )


def thing_to_json(thing: Thing) -> JsonObject:
    """For `thing_from_json`."""
    body: JsonObject = {name: getattr(thing, name) for name in Thing.__slots__}
    return {**body, "kind": thing.kind.value, "standing": thing.standing.value}


def thing_from_json(body: JsonObject) -> Thing:
    """The thing that `thing_to_json` wrote."""
    given = {**body, "kind": ResourceKind(str(body["kind"])), "standing": Standing(str(body["standing"]))}
    return Thing(**cast("dict[str, str]", given))  # type: ignore[arg-type]  # each value has its field's type, as written


@dataclass(frozen=True, slots=True)
class Call:
    """A verb under way. `number` is unique in the world."""

    number: int
    process: str
    verb: str
    region: str
    address: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Lag:
    """What looks at a region are shown in place of a thing, `looks` times: `before`, or nothing if that is None."""

    region: str
    identity: str
    before: Thing | None
    looks: int


class World(Protocol):
    """Things, a history, and rules of faults. Whatever reads and then writes does so inside `locked`."""

    def process(self) -> str:
        """The name of the process at hand, never used again."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """One step at a time, over all threads and processes."""
        ...

    def number(self) -> int:
        """The next number; none is given out twice."""
        ...

    def things(self, region: str, address: str | None = None) -> list[Thing]:
        """Those of a region, by identity; with an address those marked with it, or with an empty one those that nobody marked."""
        ...

    def find(self, region: str, identity: str) -> Thing | None:
        """The one of a region with this identity, however many there are."""
        ...

    def put(self, thing: Thing, instead: Thing | None = None) -> None:
        """Make it, or change it from what it was, whole or not at all."""
        ...

    def remove(self, thing: Thing) -> None: ...

    def note(self, line: JsonObject) -> None:
        """Add a line to the history, durably."""
        ...

    def notes(self) -> list[JsonObject]: ...

    def enter(self, call: Call) -> list[Call]:
        """A changing verb begins. Returns those that are under way in processes that live."""
        ...

    def leave(self, call: Call) -> None: ...

    def rules(self) -> list[Rule]: ...

    def passed(self, rule: int) -> int:
        """Count that a call met the rule with this number; returns how many did by now."""
        ...

    def lags(self) -> list[Lag]: ...

    def keep_lags(self, lags: list[Lag]) -> None: ...

    def die(self) -> None:
        """End the process at once, with nothing tidied up."""
        ...
