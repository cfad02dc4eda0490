"""Room that regions keep free for the next runners, so that these need not wait for a machine. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from falplan.core.definition import machine_type_from_json
from falplan.core.fleet import Waiting
from falplan.core.offers import Unplaced
from falplan.core.placement import Need, NoRoom, Slots, place, take
from falplan.core.plural import count
from falplan.core.spec.resolved import MachineType, ResolvedSpec
from falplan.core.values import JsonObject


@dataclass(frozen=True, slots=True)
class Warm:
    """Free room for `runners` on a machine type, in one region."""

    region: str
    machine_type: MachineType
    runners: int

    @property
    def who(self) -> str:
        """What it is called where it waits for a machine."""
        return f"free room for {count(self.runners, 'runner')} on {self.machine_type.name} in {self.region}"

    @property
    def need(self) -> Need:
        """What each of the runners would ask for."""
        return Need((self.machine_type.name,), regions=(self.region,))

    def waiting(self) -> Waiting:
        """The runners that are never started."""
        return Waiting(self.who, Unplaced(self.need, self.runners, {self.machine_type.name: self.machine_type}))


def warm_of(spec: ResolvedSpec) -> tuple[Warm, ...]:
    """What the regions of a spec keep free."""
    found = []
    for name, region in sorted(spec.regions.items()):
        wanted: Any = region.options.get("warm") or {}
        found += [
            Warm(name, spec.machine_types[t], int(n)) for t, n in sorted(wanted.items()) if t in spec.machine_types
        ]
    return tuple(found)


def warm_to_json(warm: Iterable[Warm]) -> JsonObject:
    """`{region: {machine type: {"runners": 1, "vcpu": …}}}`, with the sizes of the type."""
    found: dict[str, JsonObject] = {}
    for one in warm:
        t = one.machine_type
        sizes: JsonObject = {"vcpu": t.vcpu, "ram": t.ram, "gpu": t.gpu, "gpus": t.gpus, "vram": t.vram}
        found.setdefault(one.region, {})[t.name] = {"runners": one.runners, **sizes}
    return dict(found)


def warm_from_json(body: Mapping[str, Any]) -> tuple[Warm, ...]:
    """The inverse of `warm_to_json`.

    Raises:
        KeyError, TypeError, ValueError: it has another shape.
    """
    return tuple(
        Warm(region, machine_type_from_json(name, told), int(told["runners"]))
        for region, types in sorted(body.items())
        for name, told in sorted(types.items())
    )


def unmet(warm: Iterable[Warm], room: Iterable[Slots]) -> list[tuple[Warm, int]]:
    """For how many of their runners there is no room, once each was given what there is. `room` is what runners leave."""
    left, found = {slots.machine_id: slots for slots in room}, []
    for one in warm:
        missing = 0
        for _ in range(one.runners):
            placed = place(one.need, _list(left), {one.machine_type.name: one.machine_type})
            if isinstance(placed, NoRoom):
                missing += 1
            else:
                left[placed.machine_id] = take(left[placed.machine_id], placed)
        if missing:
            found.append((one, missing))
    return found


def _list(room: Mapping[str, Slots]) -> Sequence[Slots]:
    return list(room.values())
