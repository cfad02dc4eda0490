"""What environments on a machine are made with, and how what they lack is installed there. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from falplan.core.platforms import platform_name
from falplan.core.values import Json, JsonObject


@dataclass(frozen=True, slots=True)
class System:
    """A machine as those see it who make environments there.

    `arch` is `x86_64`, `arm64`, …; `libc` is `glibc`, `musl` or empty, `libc_version` as `2.36`. `pythons` are its interpreters, as `3.11`;
    `shims` versions of which there is only a version manager's script, that may find one or not. `packager` is the program that installs
    more, as `apt-get`; `offline`: it reaches no package index. `engines` are `podman` and `docker` where falplan's user there may use them,
    None if that is not known.
    """

    arch: str = ""
    libc: str = ""
    libc_version: str = ""
    pythons: tuple[str, ...] = ()
    shims: tuple[str, ...] = ()
    packager: str = ""
    offline: bool = False
    os: str = "linux"
    engines: tuple[str, ...] | None = None

    @property
    def platform(self) -> str:
        """What packages for it are made for, as `linux-aarch64`."""
        return platform_name(self.os, self.arch, self.libc)

    @property
    def pythons_text(self) -> str:
        """`python3.9, python3.11`."""
        return ", ".join(f"python{version}" for version in self.pythons) or "no Python"


def has_python(system: System, version: str) -> bool | None:
    """Whether there is this Python, as `3.11`; None if that is not known."""
    wanted = minor_of(version)
    if wanted in system.pythons:
        return True if wanted == version else None
    return None if wanted in system.shims else False


def minor_of(version: str) -> str:
    """`3.11` of `3.11.4`."""
    return ".".join(version.split(".")[:2])


def how_to_install(system: System, version: str) -> str:
    """The command that installs a Python there, as one does it on its system."""
    wanted = minor_of(version)
    package = _PACKAGES.get(system.packager)
    own = package(wanted) if package else ""
    by_uv = f"`uv python install {wanted}`"
    if system.offline:
        return (
            f"`{own}` there, from a mirror that it reaches" if own else f"{by_uv} there, from a mirror that it reaches"
        )
    return f"`{own}` there, or {by_uv}" if own else f"{by_uv} there"


def how_to_have_an_engine(system: System) -> str:
    """The command that installs one there."""
    command = f"sudo {system.packager} install podman" if system.packager in _PACKAGES else "install Podman"
    quoted = f"`{command}`" if command.startswith("sudo") else command
    return f"{quoted} there, or Docker and `sudo usermod -aG docker` with the user who logs in"


_PACKAGES: Mapping[str, Callable[[str], str]] = {
    "apt-get": lambda version: f"sudo apt-get install python{version}",
    "dnf": lambda version: f"sudo dnf install python{version}",
    "yum": lambda version: f"sudo yum install python{version}",
    "zypper": lambda version: f"sudo zypper install python{version.replace('.', '')}",
}
"""By packager. Alpine's and Arch's have one Python, of one version."""


def system_to_json(system: System) -> JsonObject:
    """For telling others."""
    body: JsonObject = {**asdict(system), "pythons": list(system.pythons), "shims": list(system.shims)}
    return {**body, "engines": None if system.engines is None else list(system.engines)}


def system_from_json(body: Mapping[str, Json]) -> System:
    """The inverse of `system_to_json`; what this falplan does not know is left out."""
    known: dict[str, Any] = {name: value for name, value in body.items() if name in System.__dataclass_fields__}
    known |= {name: tuple(known[name]) for name in ("pythons", "shims", "engines") if known.get(name) is not None}
    return System(**known)
