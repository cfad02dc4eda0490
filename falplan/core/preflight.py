"""What keeps a host from running apps, out of facts about it: each problem with what was expected, and how to put it right. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from falplan.core.errors import Severity
from falplan.core.hostfacts import Engine, Facts
from falplan.core.platforms import UV, platform_name
from falplan.core.preflight_disks import folder_problems, temporary_problems
from falplan.core.preflight_gpus import gpu_problems
from falplan.core.problems import GIB, Needs, Problem, error, size, version_of, warning
from falplan.core.systems import System, how_to_install

SKEW_ERROR, SKEW_WARNING = 60.0, 2.0
"""Seconds that a host's clock may differ: leases and certificates are judged by it."""

LOW_MEMORY = GIB
LOW_FILES = 1024
"""Open files of a process, as Linux has allowed them since long ago. A server needs one for each of its callers."""

OLDEST_GLIBC = (2, 28)
"""What wheels of PyTorch and most others are built for today: https://github.com/pypa/manylinux (manylinux_2_28)."""

OLDEST_PYTHON = "3.9"
OLDEST_FOR_GATEWAY = (3, 11)


def problems_of(facts: Facts, needs: Needs) -> tuple[Problem, ...]:
    """Everything that is wrong with a host, errors first, each kind at most once."""
    found = [problem for rule in RULES for problem in rule(facts, needs)]
    return tuple(sorted(found, key=lambda p: (p.severity is not Severity.ERROR, p.code)))


# -- the system -----------------------------------------------------------------------------------------------------------


def _platform(facts: Facts, needs: Needs) -> Iterator[Problem]:
    if facts.os != "linux":
        yield error("os", f"it runs {facts.os}", "Linux", "use another machine: runners on hosts need Linux")
        return
    platform, apps = platform_name(facts.os, facts.arch, facts.libc), ", ".join(needs.builds)
    if needs.builds and platform not in UV:
        yield error(
            "arch",
            f"{facts.arch}{' with musl' if facts.libc == 'musl' else ''}",
            f"one of {', '.join(UV)}, which environments are made for",
            f"leave the host out of the `regions` of {apps}",
        )
    elif needs.builds and facts.arch != needs.arch:
        yield warning(
            "arch",
            f"{facts.arch}",
            f"packages of {apps} have wheels for it: nothing is built for it on the control plane's machine, which is {needs.arch}",
            "look whether `falplan apply` can lock them; if not, leave the host out of the `regions` of these apps",
        )
    yield from _libc(facts, needs)


def _libc(facts: Facts, needs: Needs) -> Iterator[Problem]:
    if facts.libc == "musl":
        yield warning(
            "libc",
            f"{facts.distribution or 'it'} has musl",
            "glibc, which most wheels are for: those of GPU libraries are for nothing else",
            "a distribution with glibc (Debian, Ubuntu, Fedora …) if packages of apps have no musllinux wheels",
        )
    elif facts.libc == "glibc" and needs.builds and version_of(facts.libc_version) < OLDEST_GLIBC:
        oldest = ".".join(map(str, OLDEST_GLIBC))
        yield warning(
            "glibc-old",
            f"glibc {facts.libc_version} ({facts.distribution})",
            f"glibc {oldest} or newer, which most wheels are built for",
            "upgrade the distribution: Debian 10, Ubuntu 20.04, RHEL 8 and later have it",
        )


def _pythons(facts: Facts, needs: Needs) -> Iterator[Problem]:
    lacking = {v: apps for v, apps in needs.pythons.items() if not any(_is(there, v) for there in facts.pythons)}
    if not lacking or facts.os != "linux":
        return
    versions = ", ".join(sorted(lacking))
    apps = ", ".join(sorted({app for apps in lacking.values() for app in apps}))
    yield error(
        "python-version",
        f"Python {', '.join(facts.pythons) or 'none'}",
        f"Python {versions}, for the environments of {apps}",
        f"{how_to_install(System(packager=facts.packager), sorted(lacking)[0])}, or another `python_version` for these apps",
    )


def _is(there: str, wanted: str) -> bool:
    return there == wanted or there.startswith(f"{wanted}.")


def _gateway(facts: Facts, needs: Needs) -> Iterator[Problem]:
    """What the host lacks on which the control plane is, or is to be."""
    if not needs.gateway:
        return
    platform = platform_name(facts.os, facts.arch, facts.libc)
    if platform != needs.gateway:
        yield error(
            "gateway-platform",
            f"`gateway` is on it, and it is {platform}",
            f"{needs.gateway}, as the machine that applies",
            "apply from a machine like it, or put the control plane on another host",
        )
    oldest = ".".join(map(str, OLDEST_FOR_GATEWAY))
    if not any(version_of(there)[:2] >= OLDEST_FOR_GATEWAY for there in facts.pythons):
        yield error(
            "gateway-python",
            f"`gateway` is on it, and it has Python {', '.join(facts.pythons) or 'none'}",
            f"Python {oldest} or newer",
            f"{how_to_install(System(packager=facts.packager), oldest)}, or put the control plane on another host",
        )


def _memory(facts: Facts, needs: Needs) -> Iterator[Problem]:
    if facts.ram < LOW_MEMORY:
        yield warning("memory", f"{size(facts.ram)} of RAM", f"{size(LOW_MEMORY)} or more", "give the machine more RAM")


def _clock(facts: Facts, needs: Needs) -> Iterator[Problem]:
    off = max(0.0, abs(facts.offset) - facts.within)
    if off <= SKEW_WARNING:
        return
    tell, most = (error, SKEW_ERROR) if off > SKEW_ERROR else (warning, SKEW_WARNING)
    way = "ahead of" if facts.offset > 0 else "behind"
    yield tell(
        "clock",
        f"its clock is {abs(facts.offset):.1f} s {way} this machine's",
        f"at most {most:g} s",
        "`timedatectl set-ntp true` there, and look that this machine's own clock is right",
    )


def _files(facts: Facts, needs: Needs) -> Iterator[Problem]:
    soft = facts.open_files[0]
    if 0 <= soft < LOW_FILES:
        yield warning(
            "open-files",
            f"a process may open {soft} files",
            f"{LOW_FILES} or more",
            f"`{facts.user} - nofile 65536` in /etc/security/limits.conf, and log in anew",
        )


# -- ways in --------------------------------------------------------------------------------------------------------------


def _ways(facts: Facts, needs: Needs) -> Iterator[Problem]:
    if facts.direct is None:
        yield from _forwarding(facts, needs)
    elif facts.direct:
        yield error(
            "direct-port",
            f"`reach: direct`, and no way to a runner's port: {facts.direct}",
            "the control plane's machine gets through to the ports of `direct_ports`, as this one was to",
            "let them through the firewalls of the host and of the network, set `direct_address` if the host has another one for "
            "the control plane, or `reach: ssh`",
        )


def _forwarding(facts: Facts, needs: Needs) -> Iterator[Problem]:
    if facts.port:
        yield error(
            "forward-ports",
            f"sshd leads to no port there: {facts.port}",
            "runners of `command` apps are reached through forwarded ports",
            "`AllowTcpForwarding yes` in sshd_config there, no `DisableForwarding` or `PermitOpen`; then `systemctl reload ssh`",
        )
    if facts.path:
        yield error(
            "forward-sockets",
            f"sshd leads to no unix socket there: {facts.path}",
            "runners of fal apps are reached through forwarded unix sockets",
            "`AllowStreamLocalForwarding yes` in sshd_config there, and no `DisableForwarding`; then `systemctl reload ssh`",
        )
    elif facts.path is None and not facts.sudo:
        yield warning(
            "forward-untried",
            "whether sshd leads to unix sockets there was not tried: `ssh` here could not log in by itself",
            "OpenSSH's client on this machine, and a key in a file",
            "`apt-get install openssh-client` here, and `identity_file:` for the region",
        )
    if facts.sudo and needs.fal_apps:
        yield error(
            "sudo-fal-apps",
            f"`sudo: true`, and {', '.join(needs.fal_apps)} may run there",
            "a fal.App runs as the user who logs in: nobody else reaches its socket",
            "leave `sudo: true` out for this host, or the region out of these apps' `regions`",
        )


# -- what supervises, contains and guards ---------------------------------------------------------------------------------


def _systemd(facts: Facts, needs: Needs) -> Iterator[Problem]:
    systemd = facts.systemd
    if not systemd.first:
        yield warning(
            "systemd",
            "process 1 is not systemd",
            "systemd, whose units come back with the machine",
            "nothing has to be done: a supervisor keeps runners, and the control plane starts others after a reboot",
        )
        return
    if facts.uid == 0 or facts.sudo:
        return
    if not systemd.linger:
        yield warning(
            "linger",
            f"processes of {facts.user} may be ended after the last login (no lingering)",
            "runners are units of systemd, which go on without a login and come back with the machine",
            f"`sudo loginctl enable-linger {facts.user}` there",
        )
    if not systemd.user_units:
        yield warning(
            "user-units",
            f"{facts.user} can't use units of its own: {systemd.said or 'systemctl --user says nothing'}",
            "`systemctl --user` works",
            f"`sudo apt-get install dbus-user-session` and `sudo loginctl enable-linger {facts.user}` there, then log in anew",
        )


def _engines(facts: Facts, needs: Needs) -> Iterator[Problem]:
    engines: Mapping[str, Engine | None] = {"docker": facts.docker, "podman": facts.podman}
    for name, engine in engines.items():
        if engine is None or engine.usable:
            continue
        in_group = name == "docker" and "permission denied" in engine.said.lower()
        start = f"`sudo systemctl start {name}` there, or remove it"
        yield warning(
            name,
            f"{name} is installed, and {facts.user} can't use it: {engine.said or 'it says nothing'}",
            f"`{name} {'version' if name == 'docker' else '--version'}` works for {facts.user}",
            f"`sudo usermod -aG docker {facts.user}` there, and log in anew" if in_group else start,
        )


def _guards(facts: Facts, needs: Needs) -> Iterator[Problem]:
    if facts.selinux:
        yield warning(
            "selinux",
            "SELinux is enforcing",
            "it may keep runners from their files and ports without a word to them",
            "look for `ausearch -m avc -ts recent` there when a runner does not start; "
            f"`restorecon -R {facts.folder.path}` puts labels right",
        )
    if facts.cgroup != 2:
        seen = "control groups of version 1" if facts.cgroup == 1 else "no control groups"
        yield warning(
            "cgroups",
            seen,
            "version 2, in which a runner's memory is limited as a whole, swap included",
            "`systemd.unified_cgroup_hierarchy=1` on the kernel's command line; without, falplan limits memory as well as it can",
        )


Rule = Callable[[Facts, Needs], Iterable[Problem]]

RULES: tuple[Rule, ...] = (
    _platform,
    _pythons,
    _gateway,
    _memory,
    _clock,
    _files,
    folder_problems,
    temporary_problems,
    _ways,
    _systemd,
    _engines,
    _guards,
    gpu_problems,
)


# -- hosts and fleets -----------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What a check of a host came to."""

    FINE = "fine"
    WARNINGS = "warnings"
    ERRORS = "errors"
    UNREACHABLE = "unreachable"  #: or not logged in to, so that the rest is not known


@dataclass(frozen=True, slots=True)
class Checked:
    """One host that was checked. `where` is as people read it; `facts` are None if nobody could log in, or look."""

    address: str
    region: str
    name: str
    where: str
    problems: tuple[Problem, ...] = ()
    facts: Facts | None = field(default=None, repr=False)

    @property
    def short(self) -> str:
        """`dc1/gpu-01`."""
        return f"{self.region}/{self.name}"

    @property
    def outcome(self) -> Outcome:
        if self.facts is None:
            return Outcome.UNREACHABLE
        if any(p.severity is Severity.ERROR for p in self.problems):
            return Outcome.ERRORS
        return Outcome.WARNINGS if self.problems else Outcome.FINE


def is_usable(hosts: Iterable[Checked]) -> bool:
    """Whether no host has an error."""
    return all(h.outcome in (Outcome.FINE, Outcome.WARNINGS) for h in hosts)
