"""A provider whose machines are values in memory, for tests. What runs on them runs on a shell that the test gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from falplan.core.errors import FalplanError, Refused
from falplan.sdk.provider import Intent, Kind
from falplan.sdk.shell import Shell, Unreachable
from falplan.sdk.values import Gpu, Inventory, Machine, Offer

GIB = 1024**3


@dataclass(slots=True)
class FakeProvider:
    """Machines in memory. `capacity` bounds how many can be launched; while `unreachable`, nothing is known.

    `launches` holds the operations that made a machine, in order: one each, however often they were repeated.
    """

    region: str = "fake"
    kind: Kind = Kind.ELASTIC
    capacity: int = 10
    unreachable: bool = False
    prices: list[Offer] = field(default_factory=list)
    open_shell: Callable[[Machine], Shell] | None = None
    launches: list[str] = field(default_factory=list)
    _machines: dict[str, Machine] = field(default_factory=dict)
    _by_operation: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "fake"

    def add(self, machines: Iterable[Machine]) -> None:
        """Machines that are there from the start."""
        self._machines.update({m.id: m for m in machines})

    def offers(self) -> list[Offer]:
        if self.kind is Kind.STATIC:
            return []
        return sorted(self.prices or [an_offer(self.region)], key=lambda o: (o.price is None, o.price or 0.0, o.name))

    def machines(self) -> list[Machine]:
        self._reach()
        return [self._machines[i] for i in sorted(self._machines)]

    def launch(self, offer: Offer, intent: Intent) -> Machine:
        self._refuse_static()
        self._reach()
        known = self._by_operation.get(intent.operation)
        if known in self._machines:
            return self._machines[known]
        if len(self._machines) >= self.capacity:
            raise FalplanError("No capacity", f"Region {self.region} has no room for another {offer.name}.")
        machine = a_machine(f"{self.region}-{len(self.launches) + 1}", self.region, offer)
        self._by_operation[intent.operation] = machine.id
        self._machines[machine.id] = machine
        self.launches.append(intent.operation)
        return machine

    def terminate(self, machine_ids: Sequence[str]) -> None:
        self._refuse_static()
        self._reach()
        for machine_id in machine_ids:
            self._machines.pop(machine_id, None)

    def shell(self, machine: Machine) -> Shell:
        self._reach()
        if self.open_shell is None:
            raise Unreachable("No way onto the machine", f"{machine.id} is a value in memory.")
        return self.open_shell(machine)

    def _reach(self) -> None:
        if self.unreachable:
            raise Unreachable("The region can't be reached", f"{self.region} does not answer.")

    def _refuse_static(self) -> None:
        if self.kind is Kind.STATIC:
            raise Refused("Static region", f"The machines of {self.region} are neither made nor ended.")


def an_offer(region: str = "fake", *, gpus: int = 0, price: float | None = 1.0) -> Offer:
    """An offer with sane defaults; GPUs are H100."""
    return Offer(
        region, f"fake.{gpus}gpu", 8.0, 32 * GIB, gpus, "NVIDIA H100 80GB HBM3" if gpus else "", 80 * GIB, price
    )


def a_machine(machine_id: str = "m1", region: str = "fake", offer: Offer | None = None) -> Machine:
    """A machine as an offer promises it."""
    offer = offer or an_offer(region)
    gpus = tuple(Gpu(i, f"GPU-{machine_id}-{i}", offer.gpu_name, offer.vram) for i in range(offer.gpus))
    inventory = Inventory(offer.vcpu, offer.ram, 100 * GIB, gpus, "linux", "x86_64", "3.11.0", machine_id, "boot-1")
    return Machine(machine_id, region, "fake", inventory)
