"""What a provider is: where machines come from. Knows nothing of what runs on them."""

from __future__ import annotations

from typing import Protocol

from falplan.sdk.shell import Shell
from falplan.sdk.values import Machine


class Provider(Protocol):
    """One region's machines. Verbs block, and have their own deadlines.

    One that keeps up hosts or networks by plan and apply is `falplan.sdk.resources.Resources`, too; one whose machines are bought is
    `falplan.sdk.launches.Selling`.
    """

    @property
    def name(self) -> str:
        """The provider's name in the spec."""
        ...

    @property
    def region(self) -> str:
        """The region's name in the spec."""
        ...

    def machines(self) -> list[Machine]:
        """The machines that its options name, with what they have, sorted by id.

        Raises:
            Unreachable: it can't be known at the moment. Never an empty list in its place.
        """
        ...

    def shell(self, machine: Machine) -> Shell:
        """A way onto a machine. The caller closes it."""
        ...
