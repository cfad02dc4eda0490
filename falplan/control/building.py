"""Builds: requirements are locked for every platform on which runners may be, and environments made where it is certain already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from falplan.control.host import BuiltLock, Wanted
from falplan.control.lock_store import LockStore
from falplan.control.locks import Lock, also_for, lock_requirements
from falplan.control.station import Station
from falplan.control.wheels import ensure_wheels
from falplan.core.errors import FalplanError
from falplan.core.placement import Slots, candidates, lacks_python
from falplan.core.spec.resolved import AppKind
from falplan.sdk.here import own_platform

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where runners may be: on this machine (`here`), and on hosts, by platform. Hosts of the `offline` ones are brought wheels."""

    here: bool = True
    hosts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    offline: frozenset[str] = frozenset()


def places_of(wanted: Wanted, machines: Iterable[Slots], is_host: Callable[[str], bool]) -> Places:
    """The machines that are large enough, and not known to lack the Python. Hosts of which nothing is known come later."""
    if wanted.need is None:
        return Places()
    need = replace(wanted.need, python=wanted.python or own_python())
    large = [m for m in candidates(need, machines, wanted.types) if not lacks_python(need, m)]
    hosts: dict[str, list[str]] = {}
    offline = set()
    for machine in large:
        if is_host(machine.machine_id) and machine.system and machine.system.arch:
            hosts.setdefault(machine.system.platform, []).append(machine.machine_id)
            offline |= {machine.system.platform} if machine.system.offline else set()
    return Places(any(not is_host(m.machine_id) for m in large), hosts, frozenset(offline))


def own_python() -> str:
    """What environments are made with whose apps ask for no Python."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def build(here: Station, wanted: Wanted, places: Places, say: Say) -> BuiltLock:
    """Lock for all of them first; then fetch what hosts of other platforms are brought, and make the environment here.

    Raises:
        FalplanError: it can't be locked, fetched or made, and for which platform.
    """
    own = own_platform()
    platforms = sorted(
        {*places.hosts, *([own] if places.here or not places.hosts else [])}, key=lambda p: (p != own, p)
    )
    lock: Lock | None = None
    for platform in platforms:
        try:
            lock = _lock(here, wanted, platform, lock, say)
        except FalplanError as exc:
            raise _of(platform, places, exc) from exc
    assert lock is not None  # noqa: S101 - there is one platform at least
    for platform in sorted(places.offline - {own}):
        try:
            ensure_wheels(here.home.cache, lock.on(platform), progress=say)
        except FalplanError as exc:
            raise _of(platform, places, exc) from exc
    lock = LockStore(here.home).keep(lock)
    if places.here:
        here.ensure(lock, say)
    return BuiltLock(lock.digest, lock.packages)


def _lock(here: Station, wanted: Wanted, platform: str, before: Lock | None, say: Say) -> Lock:
    if before is not None:
        return also_for(before, platform, cache=here.home.cache, progress=say)
    return lock_requirements(
        wanted.requirements,
        python=wanted.python,
        cache=here.home.cache,
        cwd=Path("/"),
        progress=say,
        kind=AppKind(wanted.kind),
        anew=wanted.anew,
        platform=platform,
    )


def _of(platform: str, places: Places, exc: FalplanError) -> FalplanError:
    """The same error, with the hosts because of which it matters."""
    hosts = places.hosts.get(platform, ())
    if platform == own_platform() or not hosts:
        return exc
    named = ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
    advice = "If the app is not meant to run there, leave them out of its `regions`."
    return FalplanError(
        exc.summary, f"For {platform}, which {named} {'is' if len(hosts) == 1 else 'are'}: {exc.detail}\n{advice}"
    )
