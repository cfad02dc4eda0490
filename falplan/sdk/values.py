"""Machines, offers and commands as providers speak of them. Knows nothing of apps, runners or any one provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `index` is nvidia-smi's, `vram` in bytes. `busy`: a foreign process computes on it, so it is not offered; `mig`: it is
    divided, and there is no whole one to offer."""

    index: int
    uuid: str
    name: str
    vram: int
    busy: bool = False
    mig: bool = False


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a machine has. RAM and disk (free for falplan's folder) in bytes.

    `python` is the version of the interpreter that looked, as `3.11.7`; `pythons` are those that there are, as `3.11`, None if nobody
    looked; `shims` versions of which there is only a version manager's script. `libc` is `glibc`, `musl` or empty, `packager` the program
    that installs more. `engines` are `podman` and `docker` where this user may use them, None if nobody looked. `boot_id` changes with
    every boot; two machines with the same one and the same `place`, which names the folder's inode, are one. `notes` are for people: what
    could not be found out, and why.
    """

    vcpu: float
    ram: int
    disk: int
    gpus: tuple[Gpu, ...] = ()
    os: str = ""
    arch: str = ""
    python: str = ""
    hostname: str = ""
    boot_id: str = ""
    place: str = ""
    notes: tuple[str, ...] = ()
    libc: str = ""
    libc_version: str = ""
    pythons: tuple[str, ...] | None = None
    shims: tuple[str, ...] = ()
    packager: str = ""
    engines: tuple[str, ...] | None = None


def inventory_of(facts: Mapping[str, Any]) -> Inventory:
    """What `falplan.runner.inventory.detect` found out."""
    gpus = tuple(Gpu(**gpu) for gpu in facts["gpus"])
    lists = {name: tuple(facts[name]) for name in ("notes", "pythons", "shims", "engines") if name in facts}
    return Inventory(**{**facts, **lists, "gpus": gpus})


@dataclass(frozen=True, slots=True)
class Room:
    """How a region wants its machines used. `reserve_*` is kept back, of GPUs those with the highest indices; `capacity_*` overrides what
    was detected; RAM in bytes.

    A machine that is not `strict` shares its vCPU among its runners.
    """

    reserve_vcpu: float = 0.0
    reserve_ram: int = 0
    reserve_gpus: int = 0
    capacity_vcpu: float | None = None
    capacity_ram: int | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Units:
    """How runners are kept where systemd runs a machine: as its units, unless it is not `used`.

    `run_as` is a user of the machine, empty for one of each app's own; `writable` are absolute paths of folders.
    """

    used: bool = True
    run_as: str = ""
    writable: tuple[str, ...] = ()


PORTS = (20_000, 29_999)
"""The first and the last of the ports of runners that are reached without SSH, unless a region says otherwise."""


@dataclass(frozen=True, slots=True)
class Direct:
    """How runners of a machine are reached without SSH: by TLS at `address`, a name or IP address as the control plane sees it, on one of
    `ports`, the first and the last."""

    address: str
    ports: tuple[int, int] = PORTS


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is there. `id` is unique in the project and stays the same over restarts; `region` is the spec's name.

    `folder` is where falplan keeps its things on it, empty if whoever uses it says where. `unreachable` says why it can't be asked now:
    what it has is not known then. `pushes`: it reaches no package index, and is brought the packages that apps need. `direct`: its runners
    are reached without SSH.
    """

    id: str
    region: str
    provider: str
    inventory: Inventory
    room: Room = field(default_factory=Room)
    folder: str = ""
    unreachable: str = ""
    units: Units = field(default_factory=Units)
    pushes: bool = False
    direct: Direct | None = None
    refused: bool = False  #: it answers, and lets nobody in

    @property
    def vcpu(self) -> float:
        """vCPU for runners: detected or overridden, less the reserve."""
        capacity = self.room.capacity_vcpu
        return max(0.0, (self.inventory.vcpu if capacity is None else capacity) - self.room.reserve_vcpu)

    @property
    def ram(self) -> int:
        """Bytes for runners: detected or overridden, less the reserve."""
        capacity = self.room.capacity_ram
        return max(0, (self.inventory.ram if capacity is None else capacity) - self.room.reserve_ram)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """GPUs for runners, busy ones included, reserved and divided ones not."""
        return tuple(g for g in self._unreserved if not g.mig)

    @property
    def withheld(self) -> tuple[str, ...]:
        """Which of the GPUs that are not reserved are no runner's, and why: `GPU 3 is in MIG mode`."""
        divided = [str(g.index) for g in self._unreserved if g.mig]
        if not divided:
            return ()
        return (
            f"GPU {divided[0]} is in MIG mode" if len(divided) == 1 else f"GPUs {', '.join(divided)} are in MIG mode",
        )

    @property
    def _unreserved(self) -> tuple[Gpu, ...]:
        return self.inventory.gpus[: max(0, len(self.inventory.gpus) - self.room.reserve_gpus)]


@dataclass(frozen=True, slots=True, repr=False)
class Command:
    """A program to run on a machine: an argv, never a shell line.

    `stdin` is where secrets go; argv can be read by everybody on the machine. `env` is added to the machine's own; `timeout` in seconds.
    `repeatable`: it only looks. Nobody goes after it when the connection breaks; it is asked anew.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    repeatable: bool = False

    def __repr__(self) -> str:
        hidden = f", stdin=<{len(self.stdin)} bytes>" if self.stdin else ""
        names = f", env=<{', '.join(sorted(self.env))}>" if self.env else ""
        return f"Command({list(self.argv)!r}{hidden}{names}, timeout={self.timeout:g})"


@dataclass(frozen=True, slots=True)
class Output:
    """How a command ended. `code` is the exit status; minus the signal's number if one killed it."""

    code: int
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder. `size` in bytes."""

    name: str
    is_folder: bool
    size: int
