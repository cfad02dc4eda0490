"""Ways to a machine that a project's control plane lives on: opened when they are needed, kept for as long as a command runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from falplan import registry
from falplan.core.errors import FalplanError, Refused
from falplan.core.provided import ResourceKind, provided_address
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.values import JsonObject, digest
from falplan.engine.client import AdminClient
from falplan.engine.provided import provided_by
from falplan.sdk.resources import HostRegion
from falplan.sdk.shell import Shell
from falplan.sdk.values import Inventory, Machine


@dataclass(slots=True)
class Ways:
    """Connections by what leads there, and the control plane's client once it was found."""

    shells: dict[str, Shell] = field(default_factory=dict)
    clients: dict[str, AdminClient] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def shell(self, way: JsonObject) -> Shell:
        """The connection of a way; nothing is sent yet.

        Raises:
            FalplanError: the way makes no sense any more.
        """
        with self._mutex:
            key = digest(dict(way))
            if key not in self.shells:
                self.shells[key] = _shell(way)
            return self.shells[key]

    def close(self) -> None:
        """Give up all connections."""
        with self._mutex:
            for shell in self.shells.values():
                shell.close()
            self.shells.clear()
            self.clients.clear()


def _shell(way: JsonObject) -> Shell:
    region, host, options = str(way["region"]), str(way["host"]), way.get("home")
    provider = registry.provider_of(str(way["provider"]), region, options if isinstance(options, dict) else {})
    return provider.shell(Machine(f"{region}/{host}", region, provider.name, Inventory(0.0, 0, 0)))


def way_of(spec: ResolvedSpec, host: str, trust: Mapping[str, Sequence[str]]) -> JsonObject | None:
    """How the spec leads to `region/host`: {provider, region, host, home}; None if it has no such host."""
    region, _, name = host.partition("/")
    if region not in spec.regions:
        return None
    provided = provided_by(replace(spec, regions={region: spec.regions[region]}), trust)
    place = provided.places.get(region)
    declared = place.declared.get(provided_address(ResourceKind.HOST, region, name)) if place else None
    if place is None or declared is None:
        return None
    return {"provider": place.provider, "region": region, "host": name, "home": declared.home}


def machine_of(spec: ResolvedSpec, host: str, trust: Mapping[str, Sequence[str]]) -> Machine:
    """The machine `region/host` of the spec, as it answers now.

    Raises:
        FalplanError: it does not answer. Refused: there is no such machine.
    """
    region, _, name = host.partition("/")
    provided = provided_by(replace(spec, regions={region: spec.regions[region]}), trust)
    place = provided.places.get(region)
    if place is None or not isinstance(place.resources, HostRegion):
        raise Refused("The control plane's host is not there", f"Region {region} has no hosts of its own.")
    [machine] = place.resources.machines_of([name])
    if machine.unreachable:
        raise FalplanError("The control plane's host can't be reached", f"{host}: {machine.unreachable}")
    return machine
