"""A problem of a host, and what the spec needs of hosts. Knows no rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from falplan.core.errors import Severity

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` is stable and short; `seen`, `expected` and `fix` are one line each, the last one a command or a setting."""

    severity: Severity
    code: str
    seen: str
    expected: str
    fix: str


def error(code: str, seen: str, expected: str, fix: str) -> Problem:
    """A problem with which the host is of no use for what the spec wants."""
    return Problem(Severity.ERROR, code, seen, expected, fix)


def warning(code: str, seen: str, expected: str, fix: str) -> Problem:
    """A problem that may do harm later, or to some apps."""
    return Problem(Severity.WARNING, code, seen, expected, fix)


@dataclass(frozen=True, slots=True)
class Needs:
    """What the spec wants of a host.

    `builds` are addresses of apps whose environments are built there, `pythons` the versions that these need, as `3.11`, with their apps;
    `fal_apps` those that are a fal.App; `gpu_apps` those that run on GPUs alone. `arch` is the control plane's; `reserved_gpus` are
    kept back on the host; `gateway` is the platform that it has to be of, as the control plane is put on it, else empty.
    """

    builds: tuple[str, ...] = ()
    pythons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fal_apps: tuple[str, ...] = ()
    gpu_apps: tuple[str, ...] = ()
    other_apps: tuple[str, ...] = ()
    arch: str = "x86_64"
    reserved_gpus: int = 0
    gateway: str = ""


def version_of(text: str) -> tuple[int, ...]:
    """`525.60.13` as numbers that compare; empty if there are none."""
    return tuple(int(n) for n in re.findall(r"\d+", text))


def size(number: int) -> str:
    """Bytes, as `1.5 GiB` or `200 MiB`."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / 2**20:.0f} MiB"
