"""What a provider keeps up for a region by plan and apply: hosts, networks. Knows nothing of state, plans or graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from falplan.core.errors import FalplanError
from falplan.core.hostfacts import Facts
from falplan.core.provided import Declared, Found, ResourceKind, Standing
from falplan.sdk.values import Machine

__all__ = [
    "Declared",
    "Denied",
    "Failed",
    "Found",
    "HostRegion",
    "HostsToCheck",
    "Mark",
    "Resolving",
    "ResourceKind",
    "Resources",
    "Say",
    "Standing",
]

Say = Callable[[str], None]
"""Called with a line of progress that a person may want to see."""


class Failed(FalplanError):
    """An operation ended without success, and that is certain. Every other error leaves open what became of it: it is asked for again."""


class Denied(FalplanError):
    """The credentials are refused: expired, revoked or of another account. Nothing else is tried with them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What everything made carries. `owner` is the project's lineage, `operation` the id of the recorded intent to make it.

    The same operation is never recorded for two different wishes; a wish that is asked for again has the same operation. `access` is the
    control plane's public SSH key, to be let in on what is made; empty as long as there is none.
    """

    owner: str
    address: str
    operation: str
    access: str = ""


@runtime_checkable
class HostRegion(Protocol):
    """A region whose hosts show keys that have to be trusted before anybody logs in."""

    def untrusted(self) -> Sequence[str]:
        """Names of hosts of which the options say no key, sorted."""
        ...

    def scan(self, names: Iterable[str]) -> Mapping[str, str | FalplanError]:
        """The fingerprint that each of these hosts shows now, or why it shows none. Nobody logs in there."""
        ...

    def with_trust(self, keys: Mapping[str, Sequence[str]]) -> HostRegion:
        """The same region, with these fingerprints as the keys of hosts of which the options say none."""
        ...

    def machines_of(self, names: Iterable[str]) -> list[Machine]:
        """These hosts as machines. One that can't be asked, or whose key is not trusted, says so."""
        ...


@runtime_checkable
class HostsToCheck(Protocol):
    """A region whose hosts can be looked at before anything is put on them."""

    def names(self) -> Sequence[str]:
        """Names of all hosts, sorted."""
        ...

    def where(self, name: str) -> str:
        """How to get to a host, as people read it."""
        ...

    def reserved_gpus(self, name: str) -> int:
        """How many GPUs are kept back on a host."""
        ...

    def examine(self, name: str, *, now: Callable[[], float]) -> Facts:
        """Log in to a host and look; `now` tells seconds since 1970. Changes nothing there, and keeps no connection.

        Raises:
            FalplanError: nobody can log in there, or look, and why.
        """
        ...


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
        """Bring the one with this identity to `wanted`, mark it so, and bring it up if it is stopped.

        Raises:
            Failed: it is not there any more.
        """
        ...

    def delete(self, mark: Mark, identity: str, *, say: Say) -> None:
        """Remove the one with this identity; without one, whatever this owner made under this address. What is gone is no error."""
        ...

    def remains(self, mark: Mark, identity: str) -> bool:
        """Whether what `delete` was asked to remove, with the same arguments, is still there. Looks, and changes nothing.

        Asked after each `delete`, whose success is not believed. Where reads lag, it waits until they don't.
        """
        ...

    def read(self, wanted: Declared, *, say: Say) -> Found:
        """Look at something that is not managed.

        Raises:
            Failed: it is not there.
        """
        ...


@runtime_checkable
class Resolving(Protocol):
    """A region some of whose options are names of what has to be looked up, such as the newest image of a kind."""

    def resolved(self, known: Mapping[str, Found], *, ask: bool) -> Resources:
        """The same region with what they stand for. What is `known` by address stays, unless it is called otherwise now.

        Without `ask` nobody is asked, and what is not known is left open.

        Raises:
            FalplanError: there is no such thing, or nobody answers.
        """
        ...
