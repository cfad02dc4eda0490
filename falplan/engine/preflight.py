"""Looks at the hosts of a spec, many at a time, and has what was seen judged. Needs no control plane, and changes nothing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from falplan.core.errors import FalplanError
from falplan.core.preflight import Checked, problems_of
from falplan.core.problems import Needs, Problem, error
from falplan.core.provided import ResourceKind, provided_address
from falplan.core.spec.resolved import AppKind, ResolvedApp, ResolvedSpec
from falplan.core.twins import with_twins
from falplan.engine.provided import Provided
from falplan.sdk.abreast import each
from falplan.sdk.here import own_platform
from falplan.sdk.resources import HostRegion, HostsToCheck
from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh.connect import LoginRefused
from falplan.sdk.ssh.keys import HostKeyRefused
from falplan.sdk.ssh.link import NoPython, NoSession, NoSudo

Now = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Subject:
    """A host that is to be checked. `needs_key`: nobody has said yet which key it should show."""

    address: str
    region: str
    name: str
    hosts: HostsToCheck
    needs: Needs
    needs_key: bool

    @property
    def short(self) -> str:
        """`dc1/gpu-01`."""
        return f"{self.region}/{self.name}"


def subjects(spec: ResolvedSpec, provided: Provided, environment: str = "") -> list[Subject]:
    """Every host that the spec names, by address; with an environment, those that its apps may be put on."""
    found = []
    for region, place in sorted(provided.places.items()):
        apps = [a for a in spec.apps if may_run_in(a, region) and environment in ("", a.environment)]
        if not isinstance(place.resources, HostsToCheck) or (environment and not apps):
            continue
        unknown = place.resources.untrusted() if isinstance(place.resources, HostRegion) else ()
        needs = needs_of(apps, spec)
        for name in place.resources.names():
            address = provided_address(ResourceKind.HOST, region, name)
            holds = spec.gateway.get("host") == f"{region}/{name}"
            reserved = place.resources.reserved_gpus(name)
            own = replace(needs, reserved_gpus=reserved, gateway=own_platform() if holds else "")
            found.append(Subject(address, region, name, place.resources, own, name in unknown))
    return found


def may_run_in(app: ResolvedApp, region: str) -> bool:
    """Whether an app's runners may be put into a region: all of them, if it names none."""
    named = cast("list[str] | None", app.settings["regions"].value)
    return named is None or region in named


def needs_of(apps: Iterable[ResolvedApp], spec: ResolvedSpec) -> Needs:
    """What these apps want of a host. An app without a version of its own gets the Python of the control plane."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    pythons: dict[str, list[str]] = {}
    builds: list[str] = []
    fal_apps: list[str] = []
    gpu_apps: list[str] = []
    others: list[str] = []
    for app in apps:
        if app.kind == AppKind.FAL:
            fal_apps.append(app.address)
        if app.kind == AppKind.FAL or app.settings["requirements"].value:
            builds.append(app.address)
            pythons.setdefault(str(app.settings["python_version"].value or own), []).append(app.address)
        (gpu_apps if _wants_gpus(app, spec) else others).append(app.address)
    machine = platform.machine().lower()
    return Needs(
        tuple(builds),
        {version: tuple(names) for version, names in pythons.items()},
        tuple(fal_apps),
        tuple(gpu_apps),
        tuple(others),
        {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine),
    )


def _wants_gpus(app: ResolvedApp, spec: ResolvedSpec) -> bool:
    names = cast("list[str]", app.settings["machine_type"].value)
    return bool(names) and all(name in spec.machine_types and spec.machine_types[name].gpu for name in names)


def check(found: Sequence[Subject], *, at_a_time: int, now: Now) -> list[Checked]:
    """Look at these hosts, and judge them; in their order. `now` tells seconds since 1970."""
    return with_twins(each(found, lambda subject: _check(subject, now), at_a_time, "check"))


def _check(subject: Subject, now: Now) -> Checked:
    where = subject.hosts.where(subject.name)
    try:
        if subject.needs_key:
            return Checked(subject.address, subject.region, subject.name, where, (_unknown_key(subject),))
        facts = subject.hosts.examine(subject.name, now=now)
    except FalplanError as exc:
        return Checked(subject.address, subject.region, subject.name, where, (problem_in(exc),))
    problems = problems_of(facts, subject.needs)
    return Checked(subject.address, subject.region, subject.name, where, problems, facts)


def _unknown_key(subject: Subject) -> Problem:
    """Nobody logs in before a person has said whose key it is.

    Raises:
        FalplanError: it shows none.
    """
    if not isinstance(subject.hosts, HostRegion):
        raise FalplanError("The host's key is not known", subject.address)
    shown = subject.hosts.scan([subject.name])[subject.name]
    if isinstance(shown, FalplanError):
        raise shown
    return error(
        "host-key-unknown",
        f"it shows {shown}, and nobody has said that this is its key; nobody logged in",
        "`host_key` in the spec, or a key that was trusted by a plan",
        f'compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there, then write `host_key: "{shown}"` at '
        f"regions.{subject.region}.hosts.{subject.name}",
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an error means for a host."""

    code: str
    expected: str
    fix: str


KINDS: tuple[tuple[type[FalplanError], _Kind], ...] = (
    (
        HostKeyRefused,
        _Kind(
            "host-key",
            "a key that is trusted, of the host and of what it is reached through",
            "find out whether it was installed anew; if so, write the new key as its `host_key`, or into ~/.ssh/known_hosts for a bastion",
        ),
    ),
    (
        LoginRefused,
        _Kind(
            "login",
            "a login by key",
            "`ssh-copy-id` to it, or another `user` or `identity_file` for the host",
        ),
    ),
    (NoPython, _Kind("python", "Python 3.9 or newer", "`apt-get install python3`, or `dnf install python3`, there")),
    (
        NoSudo,
        _Kind(
            "sudo",
            "sudo without a password and without a terminal",
            "`USER ALL=(ALL) NOPASSWD: ALL` and `Defaults:USER !requiretty` in a file of /etc/sudoers.d there, or no `sudo: true`",
        ),
    ),
    (
        NoSession,
        _Kind(
            "session",
            "sshd runs commands for this user",
            "`MaxSessions 10` and no `ForceCommand` in sshd_config there, and a login shell in /etc/passwd",
        ),
    ),
    (
        Unreachable,
        _Kind(
            "unreachable", "an answer", "look that it is up, that sshd runs there, and that no firewall is in between"
        ),
    ),
)
"""In order: the first kind that an error is of counts."""

OTHER = _Kind("failed", "it can be looked at", "put that right, and check again")


def problem_in(exc: FalplanError) -> Problem:
    """Why nobody could log in to a host, or look, as a problem of it."""
    kind = next((k for cls, k in KINDS if isinstance(exc, cls)), OTHER)
    seen = " ".join(f"{exc.summary}: {exc.detail}".rstrip(": ").split())
    return error(kind.code, seen, kind.expected, kind.fix)
