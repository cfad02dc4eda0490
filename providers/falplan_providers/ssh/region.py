"""A region of hosts that are reached by SSH: machines for runners, and resources of plan and apply."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from falplan.core.errors import FalplanError
from falplan.core.hostfacts import Facts, inventory_text
from falplan.core.values import Json, JsonObject
from falplan.sdk.abreast import each
from falplan.sdk.resources import Declared, Failed, Found, Mark, ResourceKind, Say, Standing
from falplan.sdk.shell import Shell, Unreachable
from falplan.sdk.ssh import HostKeyRefused, SshShell
from falplan.sdk.ssh.connect import LoginRefused, scan
from falplan.sdk.ssh.examine import examine
from falplan.sdk.ssh.target import jumps_of, resolved
from falplan.sdk.values import Inventory, Machine, inventory_of

from .markers import MARKER, Marker, Site, identity_of, version_of
from .options import FOLDER, WAY, Host, hosts_of

AT_A_TIME = 32
"""Hosts that are asked at once: memory is bounded, and the slowest one does not hold up the others."""

PLACE = frozenset({"address", "user", "sudo", "folder"})
"""What decides where falplan's things lie on which host: another one is another place, to which nothing moves by itself."""

TRIES = 10
"""So often others may make or remove the folders above ours between two looks at them."""

NAMED = 3
"""So many of what somebody changed are named."""

NOTHING = Inventory(0.0, 0, 0)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class SshRegion:
    """The hosts of one region. Connections are kept as long as this is."""

    region: str
    hosts: dict[str, Host]
    options: JsonObject
    _shells: dict[tuple[str, bool], SshShell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "ssh"

    # -- machines ---------------------------------------------------------------------------------------------------------

    def machines(self) -> list[Machine]:
        """The hosts, sorted by id. One that can't be asked says so."""
        return self.machines_of(self.hosts)

    def machines_of(self, names: Iterable[str]) -> list[Machine]:
        """Some of the hosts, sorted by id."""
        return _each([self.hosts[name] for name in sorted(names)], self._machine)

    def _machine(self, host: Host) -> Machine:
        machine = Machine(
            f"{self.region}/{host.name}",
            self.region,
            "ssh",
            NOTHING,
            host.room,
            host.root,
            units=host.units,
            pushes=host.pushes,
            direct=host.direct,
        )
        try:
            return replace(machine, inventory=inventory_of(self._shell(host).survey(host.folder)))
        except (Unreachable, HostKeyRefused) as exc:
            return replace(machine, unreachable=f"{exc.summary}: {exc.detail}", refused=isinstance(exc, LoginRefused))

    def shell(self, machine: Machine) -> Shell:
        return self._shell(self.hosts[machine.id.partition("/")[2]])

    def _shell(self, host: Host, *, login: bool = False) -> SshShell:
        """The connection to a host; as the user who logs in, whoever acts there otherwise."""
        plain = login or not host.target.sudo
        key = (host.name, plain)
        if key not in self._shells:
            jobs = f"{host.root}/jobs" if host.root else ""
            target = replace(host.target, sudo=not plain)
            self._shells[key] = SshShell(target, host.credentials, jobs)
        return self._shells[key]

    def close(self) -> None:
        """Give up the connections."""
        for shell in self._shells.values():
            shell.close()

    # -- host keys --------------------------------------------------------------------------------------------------------

    def untrusted(self) -> list[str]:
        """Names of hosts of which the options say no key."""
        return sorted(name for name, host in self.hosts.items() if not host.target.trusted)

    def scan(self, names: Iterable[str]) -> dict[str, str | FalplanError]:
        """The fingerprints that these hosts show now, or why they show none. Nobody logs in there."""
        wanted = sorted(names)

        def ask(name: str) -> str | FalplanError:
            host = self.hosts[name]
            try:
                return scan(host.target, host.credentials)
            except FalplanError as exc:
                return exc

        return dict(zip(wanted, _each(wanted, ask), strict=True))

    def with_trust(self, keys: Mapping[str, Sequence[str]]) -> SshRegion:
        """The same region, with these fingerprints as the keys of hosts that have none in the options."""
        hosts = dict(cast("dict[str, JsonObject | None]", self.options.get("hosts") or {}))
        for name in self.untrusted():
            if keys.get(name):
                hosts[name] = {**(hosts[name] or {}), "host_key": list(keys[name])}
        options: JsonObject = {**self.options, "hosts": cast("JsonObject", hosts)}
        return SshRegion(self.region, hosts_of(self.region, options), options)

    # -- checks -----------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self.hosts)

    def where(self, name: str) -> str:
        return self.hosts[name].target.where

    def reserved_gpus(self, name: str) -> int:
        return self.hosts[name].room.reserve_gpus

    def examine(self, name: str, *, now: Callable[[], float]) -> Facts:
        """See `HostsToCheck`. By a connection of its own, which is closed again."""
        host = self.hosts[name]
        return examine(host.target, host.credentials, host.root or host.folder, now=now, direct=host.direct)

    # -- resources --------------------------------------------------------------------------------------------------------

    def declared(self) -> list[Declared]:
        """A host each."""
        return [self._declared(host) for host in self.hosts.values()]

    def _declared(self, host: Host) -> Declared:
        inputs = _inputs(host)
        way: JsonObject = {k: v for k, v in inputs.items() if k in WAY}
        home: JsonObject = {"hosts": {host.name: way}}
        if "folder" in self.options:
            home["folder"] = host.folder
        return Declared(
            ResourceKind.HOST,
            host.name,
            inputs,
            home,
            immutable=PLACE,  # also those that the spec says no more: a default takes their place
            known_after=("id", "folder", "inventory"),
            protect=host.protect,
            because=dict.fromkeys(sorted(PLACE), "falplan's things do not move by themselves"),
            path=("hosts", host.name),
            defaults=frozenset({"address"} - _own(self.options, host.name).keys()),
        )

    def look(self, owner: str, known: Mapping[str, Found]) -> list[Found]:
        """What carries the owner's mark on the region's hosts. A host that can't be asked leaves what is known of it unknown."""
        seen = _each(list(self.hosts.values()), lambda host: self._seen(host, owner, known))
        changed = [one for one in seen if isinstance(one, HostKeyRefused)]
        if changed:
            detail = "\n".join(exc.detail for exc in changed)
            raise HostKeyRefused(changed[0].summary, detail)
        return [found for one in seen if not isinstance(one, HostKeyRefused) for found in one]

    def _seen(self, host: Host, owner: str, known: Mapping[str, Found]) -> list[Found] | HostKeyRefused:
        if not host.target.trusted:
            return []  # nobody was ever logged in there
        try:
            site = self._site(host)
            found = [self._found(host, site, m) for m in site.markers() if m.owner == owner]
            return [*found, *self._unmarked(host, site, owner, known, {f.identity for f in found})]
        except HostKeyRefused as exc:
            return exc
        except FalplanError as exc:
            because = f"{exc.summary}: {exc.detail}".rstrip(".")
            mine = [f for a, f in known.items() if a == f"host.{self.region}.{host.name}"]
            return [replace(f, standing=Standing.UNKNOWN, because=because) for f in mine]

    def _unmarked(
        self, host: Host, site: Site, owner: str, known: Mapping[str, Found], seen: Collection[str]
    ) -> Iterator[Found]:
        """What is known to be there and has lost its mark: it is still ours, and what runs in it."""
        one = known.get(f"host.{self.region}.{host.name}")
        if one is None or one.identity in seen:
            return
        marker = site.unmarked(one.identity, Mark(owner, one.address, one.operation))
        if marker is not None:
            because = f"its mark, {site.root(marker.identity)}/{MARKER}, is gone"
            found = self._found(host, site, replace(marker, settings=_settings(one.inputs)))
            yield replace(found, standing=Standing.ALTERED, because=because)

    def _found(self, host: Host, site: Site, marker: Marker) -> Found:
        admits, edited = site.admits(marker), site.edited(marker)
        way: JsonObject = {k: v for k, v in _inputs(host).items() if k in (*WAY, "folder")}
        return Found(
            marker.address,
            marker.identity,
            {**way, **marker.settings},
            {"folder": site.root(marker.identity), "inventory": marker.inventory},
            version_of(marker, admits=admits, edited=edited),
            marker.operation,
            *_standing(admits, edited),
            _joins(host, marker, site.root(marker.identity)),
        )

    def _site(self, host: Host) -> Site:
        shell, login = self._shell(host), self._shell(host, login=True)
        base = host.folder
        if base.startswith("~/"):
            base = f"{shell.facts['home']}/{base[2:]}"
        return Site(shell, login, base)

    def create(self, wanted: Declared, mark: Mark, *, besides: str, say: Say) -> Found:
        """Leave the mark, then let the control plane in. An earlier one of this owner and address is taken."""
        host = self._host(wanted.name)
        site = self._site(host)
        say(f"logged in to {host.target.where}")
        for _ in range(TRIES):
            missing = site.missing()
            there = site.markers()
            taken = [m for m in there if (m.owner, m.address) == (mark.owner, mark.address) and m.identity != besides]
            if taken:
                return self._bring(host, site, self._brought(site, taken[0], wanted, mark))
            made = Marker(identity_of(mark), mark.owner, mark.address, "", made=site.made(missing, there))
            marker = self._brought(site, made, wanted, mark)
            if site.write_first(marker, missing):
                return self._let_in(host, site, marker)
        raise Failed(
            "Others make and remove falplan's folder there all the time",
            f"{host.target.where}: {site.base}. Apply again.",
        )

    def update(self, wanted: Declared, mark: Mark, identity: str, *, say: Say) -> Found:
        """Leave the mark anew, and let the control plane in again."""
        host = self._host(wanted.name)
        site = self._site(host)
        return self._bring(host, site, self._brought(site, _mine(site, mark, identity, host), wanted, mark))

    def _brought(self, site: Site, marker: Marker, wanted: Declared, mark: Mark) -> Marker:
        """The marker as it is to be from now on."""
        settings = _settings(wanted.inputs)
        access = mark.access or marker.access
        inventory = inventory_text(site.shell.examine(site.root(marker.identity)))
        return replace(
            marker,
            address=mark.address,
            operation=mark.operation,
            settings=settings,
            access=access,
            inventory=inventory,
        )

    def _bring(self, host: Host, site: Site, marker: Marker) -> Found:
        site.write(marker)
        return self._let_in(host, site, marker)

    def _let_in(self, host: Host, site: Site, marker: Marker) -> Found:
        site.admit(marker)
        site.mend(marker)
        return self._found(host, site, marker)

    def delete(self, mark: Mark, identity: str, *, say: Say) -> None:
        """End what runs there, take away all that falplan brought, and the mark last."""
        for site, marker in self._meant(mark, identity):
            site.end(marker, say)
            site.remove(marker)

    def remains(self, mark: Mark, identity: str) -> bool:
        return bool(self._meant(mark, identity))

    def _meant(self, mark: Mark, identity: str) -> list[tuple[Site, Marker]]:
        """What an address and identity mean, on its host: whatever its address was before it moved in the spec.

        Raises:
            Failed: it is another owner's.
        """
        name = mark.address.rpartition(".")[2]
        hosts = [self.hosts[name]] if name in self.hosts else list(self.hosts.values())
        found = []
        for site in (self._site(h) for h in hosts if h.target.trusted):  # nobody ever logged in to the others
            unmarked = site.unmarked(identity, mark)
            for marker in (*site.markers(), *([unmarked] if unmarked else [])):
                if identity and marker.identity == identity and marker.owner != mark.owner:
                    detail = f"{identity} on {site.shell.target.where}: {marker.owner}."
                    raise Failed("It belongs to another project", detail)
                if _is_meant(marker, mark, identity):
                    found.append((site, marker))
        return found

    def read(self, wanted: Declared, *, say: Say) -> Found:
        """Never: a host is falplan's to use, or it is none of its."""
        raise Failed("No host is only looked at", f"{wanted.name} of region {self.region} is not managed.")

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            raise Failed("It is not there any more", f"Region {self.region} has no host {name}.")
        return self.hosts[name]


def _standing(admits: bool, edited: Sequence[str]) -> tuple[Standing, str]:
    """How a host stands, and why."""
    if not admits:
        return Standing.STOPPED, "the control plane's key is not in authorized_keys any more"
    if edited:
        more = f" and {len(edited) - NAMED} more" if len(edited) > NAMED else ""
        return Standing.ALTERED, f"somebody changed {', '.join(edited[:NAMED])}{more}"
    return Standing.UP, ""


def _settings(inputs: Mapping[str, Json]) -> JsonObject:
    """Those that a marker remembers: all but the way to the host."""
    return {k: v for k, v in inputs.items() if k not in (*WAY, "folder")}


def _own(options: JsonObject, name: str) -> JsonObject:
    hosts = cast("dict[str, JsonObject | None]", options.get("hosts") or {})
    return hosts.get(name) or {}


def _inputs(host: Host) -> JsonObject:
    """What a host's options ask for, its keys as fingerprints."""
    inputs: JsonObject = {k: v for k, v in host.options.items() if k not in ("protect", "root")}
    inputs["address"] = host.target.address
    if host.folder != FOLDER:
        inputs["folder"] = host.folder
    if host.target.trusted:
        inputs["host_key"] = list(host.target.trusted)
    return inputs


def _joins(host: Host, marker: Marker, root: str) -> JsonObject:
    """How a control plane reaches the host, which knows nothing of this computer's ~/.ssh/config."""
    target = resolved(host.target, host.credentials)
    if host.direct is not None and target.via is not None and not host.options.get("direct_address"):
        detail = f"{host.name} is reached through {jumps_of(target.via)}, as ~/.ssh/config says: say `direct_address`, or `reach: ssh`."
        raise Failed("`reach: direct` goes through no other host", detail)
    way: JsonObject = {
        "address": target.address,
        "port": target.port,
        "user": target.user,
        "sudo": target.sudo,
        "host_key": list(target.trusted),
        "root": root,
    }
    if target.via:
        way["jump"] = jumps_of(target.via)
    return {"hosts": {marker.address.rpartition(".")[2]: {**way, **marker.settings}}}


def _is_meant(marker: Marker, mark: Mark, identity: str) -> bool:
    if marker.owner != mark.owner:
        return False
    return marker.identity == identity if identity else marker.address == mark.address


def _mine(site: Site, mark: Mark, identity: str, host: Host) -> Marker:
    for marker in site.markers():
        if marker.identity == identity and marker.owner == mark.owner:
            return marker
    unmarked = site.unmarked(identity, mark)
    if unmarked is not None:
        return unmarked
    detail = f"{identity} is not on {host.target.where}: it was removed, or the host was installed anew. Plan again."
    raise Failed("It is not there any more", detail)


def _each(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """The same for each, several at a time, in their order."""
    return each(items, work, AT_A_TIME, "hosts")
