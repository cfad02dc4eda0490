"""What a provider keeps up for a region by plan and apply: hosts, networks. Knows nothing of state, plans or graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from falplan.core.errors import FalplanError
from falplan.core.values import JsonObject

Say = Callable[[str], None]
"""Called with a line of progress that a person may want to see."""


class Failed(FalplanError):
    """An operation ended without success, and that is certain. Every other error leaves open what became of it: it is asked for again."""


class Denied(FalplanError):
    """The credentials are refused: expired, revoked or of another account. Nothing else is tried with them."""


class ResourceKind(StrEnum):
    """The kinds of resource that providers may own; the first word of an address."""

    HOST = "host"
    NETWORK = "network"


class Standing(StrEnum):
    """How something that was found stands."""

    UP = "up"
    STOPPED = "stopped"  #: there, and not usable until it is brought up again


@dataclass(frozen=True, slots=True)
class Declared:
    """A resource that a region asks for, from the spec alone.

    `name` is unique among those of its kind in the region; empty for the only one. `inputs` are what is wanted, without secrets.
    `home` are the region's options that suffice to reach it after the region has left the spec. `depends_on` are others of this
    region as `(kind, name)`. `immutable` are dotted paths of inputs, or of parts above them, whose change means another resource;
    `create_first`: that one is made before the old one goes. `known_after` names outputs that only its creation brings. `managed`
    is False for something that is only looked at: it exists without falplan, and is neither changed nor removed. `protect`:
    nothing may destroy it. `because` maps a dotted path to what its change leads to, in words. `path` leads to it in the region's
    options, for messages with a position.
    """

    kind: ResourceKind
    name: str
    inputs: JsonObject
    home: JsonObject = field(default_factory=dict)
    depends_on: tuple[tuple[ResourceKind, str], ...] = ()
    immutable: frozenset[str] = frozenset()
    create_first: bool = False
    known_after: tuple[str, ...] = ()
    managed: bool = True
    protect: bool = False
    because: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A resource that is there. `identity` is the provider's own name of it, unique in the region and never used again.

    `inputs` are those that can be read back, in the form of `Declared.inputs`. `version` differs whenever anything about it does.
    `address` is the one that it is marked with, empty for one that nobody marked; `operation` is the id it was last made or
    changed under. `because` explains a standing other than UP.
    """

    address: str
    identity: str
    inputs: JsonObject
    outputs: JsonObject = field(default_factory=dict)
    version: str = ""
    operation: str = ""
    standing: Standing = Standing.UP
    because: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """What everything made carries. `owner` is the project's lineage, `operation` the id of the recorded intent to make it.

    The same operation is never recorded for two different wishes; a wish that is asked for again has the same operation.
    """

    owner: str
    address: str
    operation: str


@runtime_checkable
class Resources(Protocol):
    """The part of a provider that owns resources; a region whose provider has none lacks these methods.

    Verbs block, have their own deadlines, are called from several threads for different addresses, and may be run twice with the
    effect of once: before each of them its intent is durable, and after a crash at any moment it is asked for again.

    Every verb may raise `Failed` (it ended without success, for certain), `Denied` (nothing else is to be tried) and
    `falplan.sdk.shell.Unreachable` or another FalplanError (what became of it is unknown).
    """

    def declared(self) -> Sequence[Declared]:
        """What the region's options ask for. Reads, runs and asks nothing: a spec of strangers is asked, too.

        Raises:
            FalplanError: an option has no meaning.
        """
        ...

    def look(self, owner: str, known: Mapping[str, Found]) -> Sequence[Found]:
        """All that is there: whatever carries the owner's mark, and what is `known` by address. The latter holds what state remembers.

        What is not in the answer is gone for certain. More than one may carry the same address: a replacement that was interrupted.

        Raises:
            Unreachable, Denied: it can't be known at the moment. Never an empty answer in its place.
        """
        ...

    def create(self, wanted: Declared, mark: Mark, *, besides: str, say: Say) -> Found:
        """Make it, or take what this owner made under this address before, by whichever operation, and bring that to `wanted`.

        What has the identity `besides` (empty for none) is left alone: it is the one that this replaces.
        """
        ...

    def update(self, wanted: Declared, mark: Mark, identity: str, *, say: Say) -> Found:
        """Bring the one with this identity to `wanted`, and bring it up if it is stopped.

        Raises:
            Failed: it is not there any more.
        """
        ...

    def delete(self, mark: Mark, identity: str, *, say: Say) -> None:
        """Remove the one with this identity; without one, whatever this owner made under this address. What is gone is no error."""
        ...

    def read(self, wanted: Declared, *, say: Say) -> Found:
        """Look at something that is not managed.

        Raises:
            Failed: it is not there.
        """
        ...
