"""What was seen of a host, as values. Judges nothing: `preflight` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from falplan.core.errors import FalplanError
from falplan.core.problems import size
from falplan.core.values import JsonObject


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What holds a folder, or will. Sizes in bytes; `inodes` 0 means that there is no limit."""

    path: str
    there: str
    writable: bool
    read_only: bool
    noexec: bool
    free: int
    total: int
    inodes_free: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Systemd:
    """`first`: it is process 1. `linger`: processes of this user stay after the last login; `user_units`: this user may have units."""

    first: bool
    version: str = ""
    linger: bool = False
    user_units: bool = False
    said: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """Docker or Podman, if it is installed; `said` is why this user can't use it."""

    version: str
    usable: bool
    said: str = ""


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """A GPU that works. VRAM in bytes, 0 if not known; `ecc_errors` that were not corrected since the driver was loaded."""

    index: int
    uuid: str
    name: str
    vram: int
    driver: str = ""
    bus: str = ""
    mig: bool = False
    persistent: bool = True
    ecc_errors: int | None = None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU and is no runner's."""

    uuid: str
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Smi:
    """What nvidia-smi answered: its exit status, what it said if that is not 0, and lines (`odd`) that describe no GPU that works."""

    code: int
    said: str = ""
    gpus: tuple[SeenGpu, ...] = ()
    odd: tuple[str, ...] = ()
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """One host. RAM in bytes.

    `offset` is how far its clock is ahead of ours, in seconds, give or take `within`. `port` and `path` say why a forwarded port, or unix
    socket, does not lead there: empty where it does, None where it was not tried; `direct` the same of a port that is connected to without
    SSH, where runners are to be reached so. `sudo`: all of this was seen as root.
    `pci` are addresses of NVIDIA GPUs on the bus; `smi` is None where there is no nvidia-smi. `refused` are device files that this user
    may not use. `memory_free` None: not known. `packager` is the program that installs more, as `apt-get`.
    """

    hostname: str
    os: str
    arch: str
    distribution: str
    kernel: str
    libc: str
    libc_version: str
    vcpu: float
    ram: int
    memory_free: int | None
    uid: int
    user: str
    python: str
    pythons: tuple[str, ...]
    folder: FileSystem
    temporary: FileSystem
    open_files: tuple[int, int]
    systemd: Systemd
    docker: Engine | None
    podman: Engine | None
    selinux: bool
    cgroup: int | None
    pci: tuple[str, ...] = ()
    smi: Smi | None = None
    refused: tuple[str, ...] = ()
    offset: float = 0.0
    within: float = 0.0
    port: str | None = ""
    path: str | None = ""
    direct: str | None = None
    sudo: bool = False
    packager: str = ""
    machine: str = ""  #: two hosts that have the same one are one machine
    notes: tuple[str, ...] = field(default=())


def facts_of(
    body: Mapping[str, Any],
    *,
    offset: float = 0.0,
    within: float = 0.0,
    port: str | None = None,
    path: str | None = None,
    direct: str | None = None,
    sudo: bool = False,
) -> Facts:
    """What `falplan.runner.facts.examine` found out, with what was seen from outside.

    Raises:
        FalplanError: it has another form: no falplan of ours said it.
    """
    try:
        return replace(_facts(body, offset, within, port, path, sudo), direct=direct)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        detail = f"What it says of itself has another form: {type(exc).__name__}: {exc}."
        raise FalplanError("The host can't be looked at", detail) from exc


def _facts(
    body: Mapping[str, Any], offset: float, within: float, port: str | None, path: str | None, sudo: bool
) -> Facts:
    own, system, gpu = body["inventory"], body["system"], body["gpu"]
    soft, hard = body["files"]
    return Facts(
        hostname=str(own["hostname"]),
        os=str(own["os"]),
        arch=str(own["arch"]),
        distribution=str(system["distribution"]),
        kernel=str(system["kernel"]),
        libc=str(system["libc"]),
        libc_version=str(system["libc_version"]),
        vcpu=float(own["vcpu"]),
        ram=int(own["ram"]),
        memory_free=body["memory_free"],
        uid=int(body["user"]["uid"]),
        user=str(body["user"]["name"]),
        python=str(own["python"]),
        pythons=tuple(map(str, body["pythons"])),
        folder=FileSystem(**body["folder"]),
        temporary=FileSystem(**body["temporary"]),
        open_files=(int(soft), int(hard)),
        systemd=Systemd(**body["systemd"]),
        docker=_engine(body, "docker"),
        podman=_engine(body, "podman"),
        selinux=bool(body["selinux"]),
        cgroup=body["cgroup"],
        pci=tuple(map(str, gpu["pci"])),
        smi=_smi(gpu["smi"]),
        refused=tuple(map(str, gpu["refused"])),
        offset=offset,
        within=within,
        port=port,
        path=path,
        sudo=sudo,
        packager=str(own["packager"]),
        machine=f"{own['boot_id']} {own['place']}" if own.get("place") else "",
        notes=tuple(map(str, own["notes"])),
    )


def gpus_text(facts: Facts) -> str:
    """`8 x NVIDIA H100 80GB HBM3`, by kind, those in MIG mode apart; empty without GPUs."""
    names = [f"{g.name} in MIG mode" if g.mig else g.name for g in facts.smi.gpus] if facts.smi else []
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def drivers(facts: Facts) -> list[str]:
    """Versions of the GPUs' drivers, sorted; one, if all is well."""
    return sorted({g.driver for g in facts.smi.gpus if g.driver}) if facts.smi else []


def containers(facts: Facts) -> list[str]:
    """`docker 27.0`, of each engine that is installed."""
    both = {"docker": facts.docker, "podman": facts.podman}
    return [f"{name} {e.version if e.usable else '(not usable)'}" for name, e in both.items() if e]


def inventory_text(facts: Facts) -> JsonObject:
    """What hardly ever changes of a host, in words, for people who look at it later."""
    told = {
        "cpu": f"{facts.vcpu:g} vCPU",
        "ram": size(facts.ram),
        "disk": size(facts.folder.total),
        "gpus": gpus_text(facts),
        "driver": ", ".join(drivers(facts)),
        "system": f"{facts.distribution or facts.os} {facts.arch}",
        "python": facts.python,
        "containers": ", ".join(containers(facts)),
        "systemd": facts.systemd.version if facts.systemd.first else "",
    }
    return {name: text for name, text in told.items() if text}


def _engine(body: Mapping[str, Any], name: str) -> Engine | None:
    found = body["engines"][name]
    return None if found is None else Engine(**found)


def _smi(body: Mapping[str, Any] | None) -> Smi | None:
    if body is None:
        return None
    gpus = tuple(SeenGpu(**g) for g in body["gpus"])
    processes = tuple(GpuProcess(**p) for p in body["processes"])
    return Smi(int(body["code"]), str(body["said"]), gpus, tuple(map(str, body["odd"])), processes)
