"""What a provider is: where machines come from. Knows nothing of what runs on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from falplan.sdk.shell import Shell
from falplan.sdk.values import Machine, Offer


class Kind(StrEnum):
    """Whether machines can be bought."""

    STATIC = "static"  #: the machines are there, named in the spec
    ELASTIC = "elastic"  #: machines are launched and terminated as needed


@dataclass(frozen=True, slots=True)
class Intent:
    """A launch that is already recorded. `operation` is its id: everything made carries it, and a repetition finds it.

    `owner` is the lineage and `control_plane` the id that the machine belongs to.
    """

    operation: str
    owner: str
    control_plane: str


class Provider(Protocol):
    """One region's machines. Verbs block, have their own deadlines, and may be run twice with the effect of once."""

    @property
    def name(self) -> str:
        """The provider's name in the spec."""
        ...

    @property
    def region(self) -> str:
        """The region's name in the spec."""
        ...

    @property
    def kind(self) -> Kind: ...

    def offers(self) -> list[Offer]:
        """Kinds of machines that can be launched, cheapest first. Empty for static regions."""
        ...

    def machines(self) -> list[Machine]:
        """The machines that are there now, with what they have, sorted by id.

        Raises:
            Unreachable: it can't be known at the moment. Never an empty list in its place.
        """
        ...

    def launch(self, offer: Offer, intent: Intent) -> Machine:
        """Make a machine, or find the one that this intent made before.

        Raises:
            Refused: this region has static machines only.
            FalplanError: no capacity, no quota, no permission; what and what next.
        """
        ...

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """End machines for good. Those that are gone are no error.

        Raises:
            Refused: this region has static machines only.
        """
        ...

    def shell(self, machine: Machine) -> Shell:
        """A way onto a machine. The caller closes it."""
        ...
