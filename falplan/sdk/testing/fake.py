"""A provider whose machines are values in memory, for tests. What runs on them runs on a shell that the test gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from falplan.sdk.shell import Shell, Unreachable
from falplan.sdk.values import Gpu, Inventory, Machine

GIB = 1024**3


@dataclass(slots=True)
class FakeProvider:
    """Machines in memory; while `unreachable`, nothing is known. See `falplan.sdk.testing.sellers` for one that sells them."""

    region: str = "fake"
    unreachable: bool = False
    open_shell: Callable[[Machine], Shell] | None = None
    _machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "fake"

    def add(self, machines: Iterable[Machine]) -> None:
        """Machines that are there from the start."""
        self._machines.update({m.id: m for m in machines})

    def machines(self) -> list[Machine]:
        self._reach()
        return [self._machines[i] for i in sorted(self._machines)]

    def shell(self, machine: Machine) -> Shell:
        self._reach()
        if self.open_shell is None:
            raise Unreachable("No way onto the machine", f"{machine.id} is a value in memory.")
        return self.open_shell(machine)

    def _reach(self) -> None:
        if self.unreachable:
            raise Unreachable("The region can't be reached", f"{self.region} does not answer.")


def a_machine(machine_id: str = "m1", region: str = "fake", *, gpus: int = 0) -> Machine:
    """A machine with sane defaults; GPUs are H100."""
    name = "NVIDIA H100 80GB HBM3"
    found = tuple(Gpu(i, f"GPU-{machine_id}-{i}", name, 80 * GIB) for i in range(gpus))
    inventory = Inventory(8.0, 32 * GIB, 100 * GIB, found, "linux", "x86_64", "3.11.0", machine_id, "boot-1")
    return Machine(machine_id, region, "fake", inventory)
