"""Provider name -> module, imported when it is named. The only module that knows where providers are."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import pkgutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, cast

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.placement import Slots
from falplan.core.systems import System
from falplan.core.values import Json
from falplan.sdk.launches import Clock, Elastic, Selling
from falplan.sdk.provider import Provider
from falplan.sdk.values import Machine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_GROUP = "falplan.providers"


def available() -> list[str]:
    """Names of providers, sorted: those that ship with falplan, and those of installed packages. Imports none of them."""
    return sorted({*_own(), *_others()})


def releases(names: Iterable[str], own: str) -> dict[str, str]:
    """Name -> release of each provider. Those that ship with falplan have its own, `own`; others have their package's version."""
    others = _others()
    found = {}
    for name in sorted(set(names)):
        point = others.get(name) if name not in _own() else None
        found[name] = f"{point.dist.name} {point.dist.version}" if point and point.dist else own
    return found


def provider_of(provider: str, region_name: str, options: Mapping[str, Json]) -> Provider:
    """Make the provider of a region.

    Raises:
        FalplanError: there is no such provider, or it refuses its options.
    """
    return _factory(provider)(region_name, options)


def providers_of(regions: Mapping[str, Mapping[str, Json]]) -> dict[str, Provider]:
    """A provider for each region of a spec: its name -> `{"provider": …}` with the provider's own options beside it.

    Raises:
        FalplanError: there is no such provider, or it refuses its options.
    """
    made = {}
    for name, body in regions.items():
        options = {k: v for k, v in body.items() if k != "provider"}
        made[name] = provider_of(str(body.get("provider", "")), name, options)
    return made


def seller_of(region_name: str, body: Mapping[str, Json]) -> Elastic | None:
    """Who sells the machines of a region, `{"provider": …}` with the provider's own options beside it; None if nobody does.

    Raises:
        FalplanError: there is no such provider, or it refuses its options.
    """
    options = {k: v for k, v in body.items() if k != "provider"}
    provider = provider_of(str(body.get("provider", "")), region_name, options)
    return seller_at(provider) if isinstance(provider, Selling) else None


def seller_at(provider: Selling) -> Elastic:
    """Who sells the machines of a region that a provider was made for."""
    return provider.seller(Clock(clock.now, time.sleep, clock.jitter))


def slots_of(regions: Mapping[str, Mapping[str, Json]]) -> list[Slots]:
    """The room of every machine of these regions, as if no runner were there, sorted by machine."""
    machines = [m for p in providers_of(regions).values() for m in p.machines()]
    return sorted((slots(m) for m in machines), key=lambda s: (s.machine_id, s.region))


def slots(machine: Machine) -> Slots:
    """A machine's room for runners. GPUs of several kinds count as the first kind only; busy ones are not free."""
    kind = machine.gpus[0].name if machine.gpus else ""
    gpus = [g for g in machine.gpus if g.name == kind]
    return Slots(
        machine.id,
        machine.region,
        total_vcpu=machine.vcpu,
        total_ram=machine.ram,
        free_vcpu=machine.vcpu,
        free_ram=machine.ram,
        total_gpus=len(gpus),
        gpus=tuple(g.index for g in gpus if not g.busy),
        gpu_name=kind,
        vram=min((g.vram for g in gpus), default=0),
        strict=machine.room.strict,
        unknown=machine.unreachable,
        withheld=machine.withheld,
        system=system_of(machine),
    )


def system_of(machine: Machine) -> System | None:
    """What environments there are made with; None where nobody looked."""
    own = machine.inventory
    if own.pythons is None:
        return None
    return System(
        own.arch,
        own.libc,
        own.libc_version,
        own.pythons,
        own.shims,
        own.packager,
        machine.pushes,
        own.os,
        own.engines,
    )


@functools.cache
def _own() -> list[str]:
    spec = importlib.util.find_spec("falplan_providers")
    paths = list(spec.submodule_search_locations or []) if spec else []
    return [m.name for m in pkgutil.iter_modules(paths) if m.ispkg]


@functools.cache
def _others() -> dict[str, EntryPoint]:
    """Looked up once: it reads what every installed package says of itself, and a provider is made for each operation."""
    from importlib.metadata import entry_points  # reads all that is installed, which falplan's own providers need not

    return {point.name: point for point in entry_points(group=_GROUP)}


def _factory(name: str) -> Callable[[str, Mapping[str, Json]], Provider]:
    if name in _own():
        module = importlib.import_module(f"falplan_providers.{name}")
        return cast("Callable[[str, Mapping[str, Json]], Provider]", module.provider)
    point = _others().get(name)
    if point is not None:
        return cast("Callable[[str, Mapping[str, Json]], Provider]", point.load())
    near = difflib.get_close_matches(name, available(), 1)
    hint = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(available())}."
    raise FalplanError("Unknown provider", f'No provider is called "{name}". {hint}')
