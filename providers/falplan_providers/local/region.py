"""The one machine of a local region."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from falplan.runner.inventory import detect, machine_identity
from falplan.sdk.shell import Shell
from falplan.sdk.values import Machine, Room, inventory_of

from .shell import LocalShell


@dataclass(frozen=True, slots=True)
class LocalRegion:
    """A provider of this machine. Two local regions of one project name the same machine."""

    region: str
    room: Room

    @property
    def name(self) -> str:
        return "local"

    def machines(self) -> list[Machine]:
        """This machine. Its id is made from the system's own machine id, which stays over restarts."""
        inventory = inventory_of(detect())
        suffix = hashlib.sha256(machine_identity().encode()).hexdigest()[:8]
        return [Machine(f"{inventory.hostname or 'local'}-{suffix}", self.region, "local", inventory, self.room)]

    def shell(self, machine: Machine) -> Shell:
        return LocalShell()
