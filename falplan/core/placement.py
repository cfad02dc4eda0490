"""Where a runner fits: machines with slots, machine types tried in order, each rejection with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from falplan.core.spec.resolved import MachineType
from falplan.core.systems import System, has_python, system_from_json, system_to_json
from falplan.core.values import Json, JsonObject

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Slots:
    """A machine's room. RAM and VRAM in bytes. `gpus` holds the free GPUs' indices, `gpu_name` their name as nvidia-smi prints it.

    `total_*` is what the machine has after `reserve`; free room is what runners there have left. A machine that is not `strict`
    shares its vCPU among its runners and never refuses one for them. `taken` says what runners of others take, and whose they are.
    `closed` says why nothing new may be put there, as long as that is so; `unknown`, why nobody knows what room there is. `system` is
    what environments there are made with, None if that is not known; `withheld` says which GPUs are given to nobody, and why.
    `stands_in` names GPUs that machine types ask for and that this machine's may replace.
    """

    machine_id: str
    region: str
    total_vcpu: float
    total_ram: int
    free_vcpu: float
    free_ram: int
    total_gpus: int = 0
    gpus: tuple[int, ...] = ()
    gpu_name: str = ""
    vram: int = 0
    strict: bool = False
    taken: tuple[str, ...] = ()
    closed: str = ""
    unknown: str = ""
    system: System | None = None
    withheld: tuple[str, ...] = ()
    stands_in: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a runner takes on its machine, whoever started it. RAM in bytes, GPUs by index."""

    runner_id: str
    lineage: str
    project: str
    vcpu: float
    ram: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """What a runner asks for: machine types in order of preference, GPUs (None: the type's own), regions (None: any).

    `python` is the version that its environment is made with, as `3.11`; empty if it has none, or that is not known. `engine`: it is a
    container.
    """

    machine_types: tuple[str, ...]
    num_gpus: int | None = None
    regions: tuple[str, ...] | None = None
    python: str = ""
    engine: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """Room found. `vcpu`, `ram` and `gpus` are what the runner gets; `because` says why here, and whether it was shrunk."""

    machine_id: str
    region: str
    machine_type: str
    vcpu: float
    ram: int
    gpus: tuple[int, ...] = ()
    because: str = ""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No machine fits; one reason for each machine and type that was tried. `ever` is False if none would fit even when empty.

    `unknown`: there are machines of which nobody knows what room they have. `lacking`: what keeps it from every machine that is large
    enough is that they lack what it is run with, as the Python of its environment.
    """

    reasons: tuple[str, ...]
    ever: bool = True
    hints: tuple[str, ...] = field(default=())
    unknown: bool = False
    lacking: bool = False


def place(need: Need, machines: Sequence[Slots], types: Mapping[str, MachineType]) -> Placed | NoRoom:
    """The first machine type with room, on the fullest machine that fits it; ties by id."""
    reasons: list[str] = []
    for name in need.machine_types:
        kind = types[name]
        fitting = []
        for machine in _in_regions(machines, need.regions):
            why = _rejection(kind, need, machine)
            if why is None:
                fitting.append(machine)
            else:
                withheld = machine.withheld if kind.gpu else ()
                reasons.append(
                    "; ".join((f"{machine.machine_id}: {name} does not fit: {why}", *withheld, *machine.taken))
                )
        if fitting:
            fullest = min(fitting, key=lambda m: (len(m.gpus), m.free_ram, m.machine_id))
            return _placed(kind, need, fullest)
    if not _in_regions(machines, need.regions):
        reasons.append(f"there is no machine in {', '.join(need.regions or ()) or 'any region'}")
    unknown = any(m.unknown and not m.closed for m in _in_regions(machines, need.regions))
    large = candidates(need, machines, types)
    able = [m for m in large if not lacks(need, m)]
    return NoRoom(tuple(reasons), ever=bool(able), unknown=unknown, lacking=bool(large) and not able)


def candidates(need: Need, machines: Iterable[Slots], types: Mapping[str, MachineType]) -> list[Slots]:
    """The machines that are large enough for a runner when they are empty, whatever it would be run with there."""
    bare = replace(need, python="", engine=False)
    return [m for m in _in_regions(machines, need.regions) if _fits_empty(bare, m, types)]


def lacks(need: Need, machine: Slots) -> str:
    """Why the machine is known not to have what the runner is run with; empty if it has, or nobody knows."""
    if machine.system is None:
        return ""
    if need.engine and machine.system.engines == ():
        return "its image needs Podman or Docker, of which falplan's user there can use neither"
    if lacks_python(need, machine):
        return f"its environment needs Python {need.python}, the machine has {machine.system.pythons_text}"
    return ""


def lacks_python(need: Need, machine: Slots) -> bool:
    """Whether it is known that the machine lacks the Python that the runner's environment is made with."""
    return bool(need.python) and machine.system is not None and has_python(machine.system, need.python) is False


def take(machine: Slots, placed: Placed) -> Slots:
    """The machine's room once the runner is there."""
    return replace(
        machine,
        free_vcpu=machine.free_vcpu - placed.vcpu,
        free_ram=machine.free_ram - placed.ram,
        gpus=tuple(g for g in machine.gpus if g not in placed.gpus),
    )


def without(machine: Slots, reserved: Iterable[Reserved]) -> Slots:
    """The room that runners of others leave, and whose they are."""
    owners: dict[tuple[str, str], list[Reserved]] = {}
    for entry in reserved:
        owners.setdefault((entry.project, entry.lineage), []).append(entry)
    every = [e for entries in owners.values() for e in entries]
    busy = {g for e in every for g in e.gpus}
    return replace(
        machine,
        free_vcpu=machine.free_vcpu - sum(e.vcpu for e in every),
        free_ram=machine.free_ram - sum(e.ram for e in every),
        gpus=tuple(g for g in machine.gpus if g not in busy),
        taken=(*machine.taken, *(_taken_by(machine, owner, owners[owner]) for owner in sorted(owners))),
    )


def _taken_by(machine: Slots, owner: tuple[str, str], entries: Sequence[Reserved]) -> str:
    project, lineage = owner
    whose = f"by project {project or '(unnamed)'} (lineage {lineage})"
    gpus = len({g for e in entries for g in e.gpus})
    ram = f"{sum(e.ram for e in entries) / GIB:.1f} of {machine.total_ram / GIB:.1f} GiB of RAM"
    if gpus:
        return f"{gpus} of {machine.total_gpus} GPUs and {ram} are taken {whose}"
    return f"{ram} are taken {whose}"


def give_back(machine: Slots, placed: Placed) -> Slots:
    """The machine's room once the runner is gone."""
    return replace(
        machine,
        free_vcpu=machine.free_vcpu + placed.vcpu,
        free_ram=machine.free_ram + placed.ram,
        gpus=tuple(sorted({*machine.gpus, *placed.gpus})),
    )


def slots_to_json(machine: Slots) -> JsonObject:
    """For telling others."""
    body = {name: getattr(machine, name) for name in Slots.__dataclass_fields__}
    lists = {name: list(value) for name, value in body.items() if isinstance(value, tuple)}
    return {**body, **lists, "system": system_to_json(machine.system) if machine.system else None}


def slots_from_json(body: Mapping[str, Json]) -> Slots:
    """The inverse of `slots_to_json`; what this falplan does not know is left out, and what an older one does not tell has its default."""
    known: dict[str, Any] = {name: value for name, value in body.items() if name in Slots.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    system = known.get("system")
    found = system_from_json(system) if isinstance(system, dict) else None
    return Slots(**{**known, **lists, "system": found})


def is_astray(regions: Json, machine_id: str, machines: Iterable[Slots]) -> bool:
    """Whether what is on a machine is in none of an app's `regions` (None: any). On one that is not known, it is not."""
    if regions is None:
        return False
    there = {m.region for m in machines if m.machine_id == machine_id}
    return bool(there) and there.isdisjoint(cast("list[str]", regions))


def _in_regions(machines: Iterable[Slots], regions: tuple[str, ...] | None) -> list[Slots]:
    return [m for m in machines if regions is None or m.region in regions]


def gpus_of(kind: MachineType, need: Need) -> int:
    """GPUs that a runner takes exclusively."""
    if kind.gpu is None:
        return 0
    return need.num_gpus or kind.gpus or 1


def _share(kind: MachineType, need: Need, machine: Slots) -> tuple[float, int]:
    """vCPU and RAM that the runner gets: fal's figures, shrunk to the machine's fair share unless it is strict."""
    gpus = gpus_of(kind, need)
    vcpu, ram = kind.vcpu * max(1, gpus), kind.ram * max(1, gpus)
    if machine.strict:
        return vcpu, ram
    part = gpus / machine.total_gpus if gpus and machine.total_gpus else 1.0
    return min(vcpu, machine.total_vcpu * part), min(ram, int(machine.total_ram * part))


def _rejection(kind: MachineType, need: Need, machine: Slots) -> str | None:
    if machine.closed or machine.unknown:
        return machine.closed or machine.unknown
    if why := lacks(need, machine):
        return why
    gpus = gpus_of(kind, need)
    if gpus and not machine.total_gpus:
        return f"it needs {gpus} GPU, the machine has {'no whole one' if machine.withheld else 'none'}"
    if gpus and not same_gpu(kind, machine):
        return f"it needs {kind.gpu}, the machine has {machine.gpu_name}"
    if gpus > len(machine.gpus):
        return f"it needs {gpus} GPU, {len(machine.gpus)} of {machine.total_gpus} are free"
    vcpu, ram = _share(kind, need, machine)
    if ram > machine.free_ram:
        return f"it needs {ram / GIB:.1f} GiB of RAM, {max(0, machine.free_ram) / GIB:.1f} of {machine.total_ram / GIB:.1f} are free"
    if machine.strict and vcpu > machine.free_vcpu:
        return f"it needs {vcpu:g} vCPU, {machine.free_vcpu:g} of {machine.total_vcpu:g} are free"
    return None


def same_gpu(kind: MachineType, machine: Slots) -> bool:
    """Whether the machine's GPUs are what the machine type asks for, and have the memory that it asks for."""
    if not is_gpu(kind, machine) and (kind.gpu or "") not in machine.stands_in:
        return False
    # A100 come with 40 and 80 GB: more is fine, less is not. Drivers report a few MiB less than the nominal size.
    return not (kind.vram and machine.vram) or machine.vram >= kind.vram * 0.93


def is_gpu(kind: MachineType, machine: Slots) -> bool:
    """Whether the machine's GPUs are of the name that the machine type asks for, and stand in for no other one.

    Drivers write words around it (`NVIDIA A100-SXM4-40GB`, `L40S`); another digit is another GPU: an A10 is no A100.
    """
    wanted = "".join((kind.gpu or "").split())
    return re.search(r"\s*".join(map(re.escape, wanted)) + r"(?!\d)", machine.gpu_name, re.IGNORECASE) is not None


def _placed(kind: MachineType, need: Need, machine: Slots) -> Placed:
    vcpu, ram = _share(kind, need, machine)
    because = f"{kind.name} fits on {machine.machine_id}"
    if vcpu < kind.vcpu * max(1, gpus_of(kind, need)) or ram < kind.ram * max(1, gpus_of(kind, need)):
        because += f", shrunk to its fair share of {vcpu:g} vCPU and {ram / GIB:.1f} GiB"
    gpus = machine.gpus[: gpus_of(kind, need)]
    if gpus and not is_gpu(kind, machine):
        because += f", where {machine.gpu_name} stands in for {kind.gpu}"
    return Placed(machine.machine_id, machine.region, kind.name, vcpu, ram, gpus, because)


def _fits_empty(need: Need, machine: Slots, types: Mapping[str, MachineType]) -> bool:
    empty = replace(
        machine, free_vcpu=machine.total_vcpu, free_ram=machine.total_ram, gpus=tuple(range(machine.total_gpus))
    )
    return any(_rejection(types[name], need, empty) is None for name in need.machine_types)
