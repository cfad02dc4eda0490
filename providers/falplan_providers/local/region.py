"""The one machine of a local region."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from falplan.core.errors import Refused
from falplan.runner.inventory import detect, machine_identity
from falplan.sdk.provider import Intent, Kind
from falplan.sdk.shell import Shell
from falplan.sdk.values import Machine, Offer, Room, inventory_of

from .shell import LocalShell


@dataclass(frozen=True, slots=True)
class LocalRegion:
    """A provider of this machine. Two local regions of one project name the same machine."""

    region: str
    room: Room

    @property
    def name(self) -> str:
        return "local"

    @property
    def kind(self) -> Kind:
        return Kind.STATIC

    def offers(self) -> list[Offer]:
        """None: this machine is all there is."""
        return []

    def machines(self) -> list[Machine]:
        """This machine. Its id is made from the system's own machine id, which stays over restarts."""
        inventory = inventory_of(detect())
        suffix = hashlib.sha256(machine_identity().encode()).hexdigest()[:8]
        return [Machine(f"{inventory.hostname or 'local'}-{suffix}", self.region, "local", inventory, self.room)]

    def launch(self, offer: Offer, intent: Intent) -> Machine:
        """Always refused."""
        raise Refused("No machine can be launched", f"Region {self.region} is this machine alone.")

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Always refused."""
        raise Refused("No machine can be terminated", f"Region {self.region} is this machine alone.")

    def shell(self, machine: Machine) -> Shell:
        return LocalShell()
