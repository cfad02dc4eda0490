"""What was seen of a host, as values. Judges nothing: `preflight` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    socket, does not lead there: empty where it does, None where it was not tried. `sudo`: all of this was seen as root.
    `pci` are addresses of NVIDIA GPUs on the bus; `smi` is None where there is no nvidia-smi. `refused` are device files that this user
    may not use. `memory_free` None: not known.
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
    sudo: bool = False
    notes: tuple[str, ...] = field(default=())


def facts_of(
    body: Mapping[str, Any], *, offset: float, within: float, port: str | None, path: str | None, sudo: bool
) -> Facts:
    """What `falplan.runner.facts.examine` found out, with what was seen from outside.

    Raises:
        KeyError, TypeError, ValueError: it has another form, as if another falplan had said it.
    """
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
        notes=tuple(map(str, own["notes"])),
    )


def _engine(body: Mapping[str, Any], name: str) -> Engine | None:
    found = body["engines"][name]
    return None if found is None else Engine(**found)


def _smi(body: Mapping[str, Any] | None) -> Smi | None:
    if body is None:
        return None
    gpus = tuple(SeenGpu(**g) for g in body["gpus"])
    processes = tuple(GpuProcess(**p) for p in body["processes"])
    return Smi(int(body["code"]), str(body["said"]), gpus, tuple(map(str, body["odd"])), processes)
